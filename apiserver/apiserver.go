// SPDX-License-Identifier: Apache-2.0

// Package apiserver is the HTTP front of the cluster: apiserver machinery, the handler chain, and every
// resource that registry lists.
//
// New builds it, Run serves until its context ends. Parts of the same process reach it through
// ClientConfig, without a socket. What a resource means is registry's business, where objects lie is
// datastore's, who may do what is authn's, authz's and admission's.
package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/emicklei/go-restful/v3"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apiextensionsserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/recognizer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	basecompatibility "k8s.io/component-base/compatibility"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"

	"github.com/skiff-k8s/skiff/apiserver/flowcontrol"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/apiserver/ondemand"
	"github.com/skiff-k8s/skiff/apiserver/openapi"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/core/allocation"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// Config is what an API server is made of. Its values stay owned by the caller.
type Config struct {
	Store     *datastore.Store
	Resources []registry.Definition
	// Services is opened on the stores that it works on (nil: Services get no addresses). Resources has it as
	// a dependency.
	Services *allocation.Allocator
	// Reviews are the resources that are answered and not stored, by group version and name ("tokenreviews").
	Reviews map[schema.GroupVersion]map[string]genericrest.Storage

	// Door is where in-process clients wait.
	Door *inprocess.Door
	// Loopback is the machinery's own client, privileged.
	Loopback *restclient.Config
	// Listener takes TLS connections (nil: in-process clients only).
	Listener net.Listener
	// ServingCert, ClientCA are required with a Listener. They may change while serving.
	ServingCert dynamiccertificates.CertKeyContentProvider
	ClientCA    dynamiccertificates.CAContentProvider
	// MinTLSVersion and CipherSuites limit what clients may use (zero: what Go takes for good, from TLS 1.2).
	MinTLSVersion uint16
	CipherSuites  []uint16

	Authenticator authenticator.Request
	APIAudiences  authenticator.Audiences
	Authorizer    authorizer.Authorizer
	RuleResolver  authorizer.RuleResolver
	Admission     admission.Interface
	Informers     informers.SharedInformerFactory // nil: its own, which see everything
	// MaxInFlight is how many requests are handled at once, shared out by priority and fairness (0: no limit).
	MaxInFlight int
	// RequestTimeout is how long a request may take that is not a watch or the like (0: a minute), MinRequestTimeout
	// how long a watch lasts at least for which its client names no end (0: half an hour).
	RequestTimeout, MinRequestTimeout time.Duration

	// Transformers encrypt what is stored (nil: nothing is encrypted).
	Transformers value.ResourceTransformers
	// HealthChecks are further conditions of being ready.
	HealthChecks []healthz.HealthChecker
	// Audit says what is recorded of requests and where (nil: nothing is).
	Audit *genericoptions.AuditOptions
	// TracingFile is a TracingConfiguration (empty: nothing is traced).
	TracingFile string

	// ServiceResolver finds the Services of conversion webhooks and aggregated API servers (nil: by endpoints).
	ServiceResolver webhook.ServiceResolver
	// WebhookAuth says how conversion webhooks are told who calls (nil: they are not).
	WebhookAuth webhook.AuthenticationInfoResolverWrapper
	// ProxyClientCert is shown to aggregated API servers. It may change while serving.
	ProxyClientCert CertFiles

	// OnDemand are groups of custom resources that are installed when they are used.
	OnDemand []ondemand.Group

	// ExternalAddress is the host:port that clients outside are told.
	ExternalAddress string
	// LongRunning are paths of further handlers whose requests may last for ever.
	LongRunning []string
	// DialPod is how aggregated API servers are dialled (nil: directly).
	DialPod func(ctx context.Context, network, address string) (net.Conn, error)
	// Version is what /version and the Server header say.
	Version basecompatibility.EffectiveVersion
}

// CertFiles are the paths of a certificate and its key.
type CertFiles struct{ CertFile, KeyFile string }

// Server is a built API server: three in a row, each asked for what the one before does not serve.
type Server struct {
	front   *aggregator.APIAggregator          // APIServices and the way to remote ones
	generic *genericapiserver.GenericAPIServer // what is built in
	crds    *apiextensionsserver.CustomResourceDefinitions

	stores  map[schema.GroupResource]*rest.Store
	servers storage.Interface
	scheme  *runtime.Scheme
}

// New builds the server. Nothing is served until Run. Of ctx it keeps the values, not the end.
func New(ctx context.Context, cfg Config) (*Server, error) {
	scheme, err := registry.NewScheme(cfg.Resources)
	if err != nil {
		return nil, err
	}
	codecs := newCodecs(scheme)
	client, err := kubernetes.NewForConfig(cfg.Loopback)
	if err != nil {
		return nil, fmt.Errorf("make the API server's own client: %w", err)
	}
	if err := cfg.complete(client); err != nil {
		return nil, err
	}
	base, err := genericConfig(cfg, codecs, client)
	if err != nil {
		return nil, err
	}
	crds, err := newCRDs(base, cfg)
	if err != nil {
		return nil, err
	}
	generic, err := base.Complete(cfg.Informers).New("kube-apiserver", crds.GenericAPIServer)
	if err != nil {
		return nil, fmt.Errorf("build the API server: %w", err)
	}
	s := &Server{generic: generic, crds: crds, stores: map[schema.GroupResource]*rest.Store{}, scheme: scheme}
	if cfg.MaxInFlight > 0 {
		if err := s.keepFlowControl(cfg, client); err != nil {
			return nil, err
		}
	}
	groups, err := s.buildResources(ctx, cfg, codecs)
	if err != nil {
		return nil, err
	}
	if pods := s.Store(corev1.Resource("pods")); pods != nil {
		groups.add(corev1.SchemeGroupVersion, "bindings", core.Bindings(pods))
	}
	for gv, resources := range cfg.Reviews {
		for name, storage := range resources {
			groups.add(gv, name, storage)
		}
	}
	if err := s.install(groups, cfg, codecs); err != nil {
		return nil, err
	}
	s.front, err = newAggregator(base, cfg, generic, crds.Informers.Apiextensions().V1().CustomResourceDefinitions())
	if err != nil {
		return nil, err
	}
	remotes := remoteAPIs{services: s.front.APIRegistrationInformers.Apiregistration().V1().APIServices().Lister(), resolver: cfg.ServiceResolver, cert: cfg.ProxyClientCert}
	openapi.New(crds.Informers.Apiextensions().V1().CustomResourceDefinitions().Lister(), remotes.list).Install(s.Generic().Handler.NonGoRestfulMux)
	return s, nil
}

func (cfg *Config) complete(client kubernetes.Interface) error {
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, time.Minute)
	cfg.MinRequestTimeout = cmp.Or(cfg.MinRequestTimeout, 30*time.Minute)
	if cfg.Informers == nil {
		cfg.Informers = informers.NewSharedInformerFactory(client, 0)
	}
	if cfg.ServiceResolver == nil {
		var err error
		if cfg.ServiceResolver, err = NewServiceResolver(cfg.Informers); err != nil {
			return err
		}
	}
	return nil
}

// transformer encrypts a resource, or not (nil).
func (cfg *Config) transformer(resource schema.GroupResource) value.Transformer {
	if cfg.Transformers == nil {
		return nil
	}
	return cfg.Transformers.TransformerForResource(resource)
}

// Store is the store of a resource, for parts of the API server that work below the API.
func (s *Server) Store(resource schema.GroupResource) *rest.Store { return s.stores[resource] }

// Scheme knows all served types. It must not be changed.
func (s *Server) Scheme() *runtime.Scheme { return s.scheme }

// MasterLeases is where API servers say that they live: an Endpoints for each address, that expires. They are no API
// resource; upstream keeps them in the same place.
func (s *Server) MasterLeases() storage.Interface { return s.servers }

// MasterLeasesPrefix is the folder of MasterLeases.
const MasterLeasesPrefix = "masterleases"

// Generic is the machinery, for what hooks into it (more health checks, handlers, post-start hooks).
func (s *Server) Generic() *genericapiserver.GenericAPIServer { return s.front.GenericAPIServer }

// Definitions is the informer of CustomResourceDefinitions that the machinery has anyway.
func (s *Server) Definitions() cache.SharedIndexInformer {
	return s.crds.Informers.Apiextensions().V1().CustomResourceDefinitions().Informer()
}

// WebServices are the routes of all that is built in, each root once.
func (s *Server) WebServices() []*restful.WebService {
	var out []*restful.WebService
	seen := map[string]bool{}
	for _, server := range []*genericapiserver.GenericAPIServer{s.front.GenericAPIServer, s.generic, s.crds.GenericAPIServer} {
		for _, ws := range server.Handler.GoRestfulContainer.RegisteredWebServices() {
			if !seen[ws.RootPath()] {
				seen[ws.RootPath()] = true
				out = append(out, ws)
			}
		}
	}
	return out
}

// Run opens door and serves until ctx ends and requests in flight are answered.
func (s *Server) Run(ctx context.Context, door *inprocess.Door) error {
	prepared := s.Generic().PrepareRun()
	door.Open(s.Generic().Handler)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		s.waitForDefinitions(running)
		stop()
	})()
	if err := prepared.RunWithContext(running); err != nil {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// waitForDefinitions returns when all CustomResourceDefinitions have been read. The machinery's hook that
// waits for them ends the process (with klog.Fatal) if it is interrupted, so a stop right after the start
// waits for it.
func (s *Server) waitForDefinitions(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, complete := range s.crds.GenericAPIServer.MuxAndDiscoveryCompleteSignals() {
		select {
		case <-complete:
		case <-ctx.Done():
		}
	}
}

// newCodecs is the codec factory of all served types, which streams lists.
func newCodecs(scheme *runtime.Scheme) serializer.CodecFactory {
	return serializer.NewCodecFactory(scheme,
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf())
}

// genericConfig is what the servers have in common.
func genericConfig(cfg Config, codecs serializer.CodecFactory, client kubernetes.Interface) (genericapiserver.Config, error) {
	c := genericapiserver.NewConfig(codecs)
	c.EffectiveVersion = cfg.Version
	c.LoopbackClientConfig = cfg.Loopback
	c.ExternalAddress = cfg.ExternalAddress
	c.Authentication.Authenticator = cfg.Authenticator
	c.Authentication.APIAudiences = cfg.APIAudiences
	c.Authorization.Authorizer = cfg.Authorizer
	c.RuleResolver = cfg.RuleResolver
	c.AdmissionControl = cfg.Admission
	c.SkipOpenAPIInstallation = true // the built-in part is made at build time
	c.EnableProfiling = false
	c.MinRequestTimeout = int(cfg.MinRequestTimeout.Seconds())
	c.RequestTimeout = cfg.RequestTimeout
	// A stop ends watches, and does not wait for their clients: an agent's last as long as it runs.
	c.ShutdownWatchTerminationGracePeriod = 2 * time.Second
	longRunning := genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	c.LongRunningFunc = func(r *http.Request, info *request.RequestInfo) bool {
		return longRunning(r, info) || slices.Contains(cfg.LongRunning, r.URL.Path)
	}
	c.StorageObjectCountTracker = cfg.Store.Counts()
	c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight = 0, 0 // it is flow control that limits
	if cfg.MaxInFlight > 0 {
		c.FlowControl = utilflowcontrol.New(cfg.Informers, client.FlowcontrolV1(), cfg.MaxInFlight)
	}
	c.BuildHandlerChainFunc = func(handler http.Handler, c *genericapiserver.Config) http.Handler {
		handler = ondemand.Handler(cfg.OnDemand, handler)
		handler = exceptLongRunning(countOnScrape(handler, cfg.Store.Counts()), c.LongRunningFunc)
		return cutOff(genericapiserver.DefaultBuildHandlerChain(handler, c), c.RequestTimeout)
	}
	c.SecureServing = &genericapiserver.SecureServingInfo{
		Listener: cfg.Listener, Cert: cfg.ServingCert, ClientCA: cfg.ClientCA,
		MinTLSVersion: cfg.MinTLSVersion, CipherSuites: cfg.CipherSuites,
		HTTP2MaxStreamsPerConnection: 1000,
	}
	if cfg.Listener == nil {
		c.SecureServing.Listener = newNoListener()
	}
	etcd := func(r *http.Request) error { return cfg.Store.Health(r.Context()) }
	c.AddHealthChecks(healthz.NamedCheck("etcd", etcd))
	c.AddReadyzChecks(healthz.NamedCheck("etcd-readiness", etcd))
	c.HealthzChecks, c.ReadyzChecks = append(c.HealthzChecks, cfg.HealthChecks...), append(c.ReadyzChecks, cfg.HealthChecks...)
	c.AggregatedDiscoveryGroupManager = ondemand.NewManager(cfg.OnDemand) // of all servers
	if err := cfg.Audit.ApplyTo(c); err != nil {
		return *c, fmt.Errorf("build the audit: %w", err)
	}
	if err := (&genericoptions.TracingOptions{ConfigFile: cfg.TracingFile}).ApplyTo(nil, c); err != nil {
		return *c, fmt.Errorf("build the tracing: %w", err)
	}
	return *c, nil
}

// countOnScrape brings the numbers of objects among the metrics up to date when they are asked for.
func countOnScrape(handler http.Handler, counts *datastore.Counts) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			counts.Observe()
		}
		handler.ServeHTTP(w, r)
	})
}

// keepFlowControl keeps the default objects of flow control, which has to be ready before the server is.
func (s *Server) keepFlowControl(cfg Config, client kubernetes.Interface) error {
	keeper, err := flowcontrol.New(client, cfg.Informers, s.scheme.Default)
	if err != nil {
		return err
	}
	if err := s.generic.AddPostStartHook(flowcontrol.HookName, func(hook genericapiserver.PostStartHookContext) error {
		go keeper.Run(hook)
		select {
		case <-keeper.Ready():
		case <-hook.Done():
		}
		return nil
	}); err != nil {
		return fmt.Errorf("start flow control: %w", err)
	}
	return nil
}

// buildResources opens the storage of all resources.
func (s *Server) buildResources(ctx context.Context, cfg Config, codecs serializer.CodecFactory) (groups, error) {
	protobuf, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, fmt.Errorf("build the API server: no protobuf serializer")
	}
	// What lies in etcd is protobuf, but an upstream server may have stored JSON, so the form is recognized.
	decoder := recognizer.NewDecoder(codecs.UniversalDeserializer(), protobuf.Serializer)
	layout := func(stored schema.GroupVersion, keyPrefix string) datastore.Layout {
		return datastore.Layout{Codec: rest.StorageCodec(s.scheme, protobuf.Serializer, decoder, stored), KeyPrefix: keyPrefix}
	}
	options := func(resource schema.GroupResource, stored schema.GroupVersion, keyPrefix string) (generic.RESTOptions, error) {
		l := layout(stored, keyPrefix)
		l.Transformer = cfg.transformer(resource)
		return cfg.Store.RESTOptions(resource, l), nil
	}
	out := groups{}
	for _, definition := range cfg.Resources {
		built, err := definition.Build(s.scheme, options)
		if err != nil {
			return nil, err
		}
		s.stores[built.Store.DefaultQualifiedResource] = built.Store
		s.generic.RegisterDestroyFunc(built.Store.Destroy)
		for _, gv := range built.Versions {
			for name, storage := range built.Storage {
				out.add(gv, name, storage)
			}
		}
	}
	leases := layout(corev1.SchemeGroupVersion, MasterLeasesPrefix)
	leases.Transformer = cfg.transformer(corev1.Resource("apiServerIPInfo"))
	var destroy func()
	var err error
	s.servers, destroy, err = cfg.Store.Raw(corev1.Resource("apiServerIPInfo"), leases,
		func() runtime.Object { return &corev1.Endpoints{} },     //nolint:staticcheck // as upstream stores them
		func() runtime.Object { return &corev1.EndpointsList{} }) //nolint:staticcheck // as above
	if err != nil {
		return nil, err
	}
	s.generic.RegisterDestroyFunc(destroy)
	if cfg.Services != nil {
		return out, s.openAllocator(ctx, cfg, layout(corev1.SchemeGroupVersion, "ranges"))
	}
	return out, nil
}

// openAllocator gives cfg.Services the stores of what it allocates.
func (s *Server) openAllocator(ctx context.Context, cfg Config, ranges datastore.Layout) error {
	resource := corev1.Resource("servicenodeportallocations")
	ranges.Transformer = cfg.transformer(resource)
	held, destroy, err := cfg.Store.Raw(resource, ranges,
		func() runtime.Object { return &corev1.RangeAllocation{} }, nil)
	if err != nil {
		return err
	}
	s.generic.RegisterDestroyFunc(destroy)
	cfg.Services.Open(ctx, allocation.Stores{
		Services:     s.Store(corev1.Resource("services")),
		IPAddresses:  s.Store(networkingv1.Resource("ipaddresses")),
		ServiceCIDRs: s.Store(networkingv1.Resource("servicecidrs")),
		Ranges:       held,
	})
	return nil
}

// groups holds what is served, by group version and name of the resource.
type groups map[schema.GroupVersion]map[string]genericrest.Storage

func (g groups) add(gv schema.GroupVersion, name string, storage genericrest.Storage) {
	if g[gv] == nil {
		g[gv] = map[string]genericrest.Storage{}
	}
	g[gv][name] = storage
}
