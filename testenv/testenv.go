// SPDX-License-Identifier: Apache-2.0

// Package testenv is the API server inside a Go test: etcd on a temporary directory, every resource of
// the registry with its defaults and rules, and clients without a socket.
//
//	env := testenv.Start(t)
//	_, err := env.Client.CoreV1().ConfigMaps("default").Create(ctx, ...)
//
// It is the real server: watches, server-side apply, finalizers, graceful deletion, addresses for Services. Not
// there, unless an Option says so: admission and RBAC (whoever asks may), webhooks, custom resources, controllers
// (package testenv/controllers) and nodes, so that a test acts as they would. The namespace default and the range
// of Service addresses exist. Everything ends with the test.
//
// It takes the place of controller-runtime's envtest, without programs to download: Config goes into a manager
// as it is. examples/controller has a controller with its test.
package testenv

import (
	"context"
	"net/netip"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/internal/restmapping"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/authentication"
	"github.com/skiff-k8s/skiff/registry/authorization"
	"github.com/skiff-k8s/skiff/registry/core/allocation"
	"github.com/skiff-k8s/skiff/version"
)

// Env is a running API server.
type Env struct {
	// Config and Client are an administrator's.
	Config *restclient.Config
	Client kubernetes.Interface
	// Store is what the server stands on, for tests of what lies in etcd.
	Store *datastore.Store

	// Webhooks is where a test serves the webhooks of the option of that name.
	Webhooks WebhookServer

	door *inprocess.Door
	stop func()
}

// Option changes what Start starts.
type Option func(*settings)

type settings struct {
	dir          string
	serviceCIDRs []netip.Prefix
	firstPort    int
	lastPort     int
	authorizer   authorizer.Authorizer
	configure    []func(*apiserver.Config)
	crds         []string // paths
	webhooks     []string // paths
	admission    bool
	disabled     []string // admission plugins
	deps         registry.Deps
	simulated    simulated.Config
}

// Dir keeps the data in dir, so that a test can stop a server and start another on what it left.
func Dir(dir string) Option { return func(s *settings) { s.dir = dir } }

// ServiceCIDRs sets the range of Service addresses, or one of each IP family (default: 10.43.0.0/16).
func ServiceCIDRs(cidrs ...string) Option {
	return func(s *settings) {
		s.serviceCIDRs = nil
		for _, c := range cidrs {
			s.serviceCIDRs = append(s.serviceCIDRs, netip.MustParsePrefix(c))
		}
	}
}

// NodePorts sets the range of node ports (default: 30000-32767).
func NodePorts(first, last int) Option {
	return func(s *settings) { s.firstPort, s.lastPort = first, last }
}

// Authorizer decides who may do what (default: everybody may everything).
func Authorizer(a authorizer.Authorizer) Option { return func(s *settings) { s.authorizer = a } }

// CRDs makes the CustomResourceDefinitions in these YAML files, or folders of them, and waits until they serve.
func CRDs(paths ...string) Option { return func(s *settings) { s.crds = append(s.crds, paths...) } }

// Webhooks makes the webhook configurations in these YAML files, or folders of them, as Env.Webhooks says.
// Unless there is an option Admission, the admission chain is on, but for the plugin ServiceAccount.
func Webhooks(paths ...string) Option {
	return func(s *settings) { s.webhooks = append(s.webhooks, paths...) }
}

// Admission puts the admission chain of a real server in the way of writes (default: there is none), but for
// the plugins that are named. ServiceAccount refuses pods where no controller makes service accounts.
func Admission(disabled ...string) Option {
	return func(s *settings) { s.admission, s.disabled = true, disabled }
}

// Configure changes the server's configuration before it is built.
func Configure(change func(*apiserver.Config)) Option {
	return func(s *settings) { s.configure = append(s.configure, change) }
}

// Deps gives resources what they need besides their storage. Addresses of Services are there anyway.
func Deps(deps registry.Deps) Option { return func(s *settings) { s.deps = deps } }

// SimulatedNodes makes nodes that accept pods and report them Running and Ready.
func SimulatedNodes(cfg simulated.Config) Option { return func(s *settings) { s.simulated = cfg } }

// Start serves until t ends or Stop is called.
func Start(t testing.TB, options ...Option) *Env {
	t.Helper()
	s := settings{
		serviceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, firstPort: 30000, lastPort: 32767,
		authorizer: authorizerfactory.NewAlwaysAllowAuthorizer(),
	}
	for _, o := range options {
		o(&s)
	}
	if len(s.webhooks) > 0 && !s.admission {
		Admission("ServiceAccount")(&s)
	}
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	env, err := start(t, s)
	if err != nil {
		t.Fatalf("start the API server: %v", err)
	}
	t.Cleanup(env.Stop)
	if err := env.prepare(t.Context(), s); err != nil {
		t.Fatalf("prepare the cluster: %v", err)
	}
	if err := env.install(t, s); err != nil {
		t.Fatalf("install: %v", err)
	}
	if s.simulated.Nodes > 0 {
		if err := env.simulate(t, s.simulated); err != nil {
			t.Fatalf("simulate nodes: %v", err)
		}
	}
	return env
}

func start(t testing.TB, s settings) (*Env, error) {
	ctx, cancel := context.WithCancel(t.Context())
	store, err := datastore.Open(ctx, datastore.Config{Dir: s.dir, TickMs: 5, UnsafeNoFsync: true})
	if err != nil {
		cancel()
		return nil, err
	}
	env := &Env{Store: store, door: inprocess.NewDoor()}
	env.Config = env.ConfigFor("admin", user.SystemPrivilegedGroup)
	env.Client = kubernetes.NewForConfigOrDie(env.Config) // fails for impossible configurations only
	fail := func(err error) (*Env, error) {
		cancel()
		_ = store.Close()
		return nil, err
	}
	services, err := allocation.New(allocation.Config{ServiceCIDRs: s.serviceCIDRs, FirstNodePort: s.firstPort, LastNodePort: s.lastPort})
	if err != nil {
		return fail(err)
	}
	s.deps.Core.Services = services
	s.deps.Core.Budgets = env.Client.PolicyV1()
	config := apiserver.Config{
		Store: store, Resources: registry.All(s.deps), Services: services, Door: env.door, Loopback: env.Config,
		Authenticator: inprocess.Authenticator(), Authorizer: s.authorizer,
		ExternalAddress: "127.0.0.1:6443", Version: version.Effective(),
	}
	if rules, ok := s.authorizer.(authorizer.RuleResolver); ok {
		config.Reviews = map[schema.GroupVersion]map[string]genericrest.Storage{
			authenticationv1.SchemeGroupVersion: authentication.Storages(authentication.Deps{Token: noTokens}),
			authorizationv1.SchemeGroupVersion:  authorization.Storages(authorization.Deps{Authorizer: s.authorizer, Rules: rules}),
		}
	}
	requests := make(chan struct{}) // closed when none will come any more
	if s.admission {
		if err := env.admit(&config, s.disabled, requests); err != nil {
			return fail(err)
		}
	}
	for _, change := range s.configure {
		change(&config)
	}
	server, err := apiserver.New(ctx, config)
	if err != nil {
		return fail(err)
	}
	if err := services.Repair(ctx); err != nil {
		return fail(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, env.door) }()
	stopped := false
	env.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the API server: %v", err)
		}
		close(requests)
		_ = store.Close()
	}
	return env, nil
}

// simulate runs the simulated nodes until t ends or the server is stopped.
func (e *Env) simulate(t testing.TB, cfg simulated.Config) error {
	factory := informers.NewSharedInformerFactory(e.Client, 0)
	fleet, err := simulated.New(cfg, e.Client, factory)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fleet.Run(ctx); err != nil {
			t.Errorf("the simulated nodes: %v", err)
		}
	}()
	stopServer := e.stop
	e.stop = func() {
		cancel()
		<-done
		factory.Shutdown()
		stopServer()
	}
	return nil
}

// prepare makes what every cluster has.
func (e *Env) prepare(ctx context.Context, s settings) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceDefault}}
	if _, err := e.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}}
	for _, prefix := range s.serviceCIDRs {
		cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, prefix.String())
	}
	if _, err := e.Client.NetworkingV1().ServiceCIDRs().Create(ctx, cidr, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil
}

// noTokens knows none: users of a testenv are those of its clients.
var noTokens = authenticator.TokenFunc(func(context.Context, string) (*authenticator.Response, bool, error) { return nil, false, nil })

// admit builds the admission chain.
func (e *Env) admit(config *apiserver.Config, disabled []string, requests <-chan struct{}) error {
	dynamicClient, err := dynamic.NewForConfig(e.Config)
	if err != nil {
		return err
	}
	config.Informers = informers.NewSharedInformerFactory(e.Client, 0)
	config.WebhookAuth = apiserver.WebhookAuth(e.Config, nil)
	if config.ServiceResolver, err = apiserver.NewServiceResolver(config.Informers); err != nil {
		return err
	}
	config.Admission, err = admission.New(admission.Deps{
		Client: e.Client, Dynamic: dynamicClient, Informers: config.Informers, Authorizer: config.Authorizer,
		RESTMapper: restmapping.New(e.Client.Discovery()),
		Features:   utilfeature.DefaultFeatureGate, Version: config.Version, Done: requests, Disabled: disabled,
		ServiceResolver: config.ServiceResolver, WebhookAuth: config.WebhookAuth,
	})
	return err
}

// ConfigFor is for a client that acts as the user.
func (e *Env) ConfigFor(name string, groups ...string) *restclient.Config {
	return e.door.ClientConfig(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)})
}

// Stop ends the server before the test does. What was acknowledged is in its directory.
func (e *Env) Stop() { e.stop() }
