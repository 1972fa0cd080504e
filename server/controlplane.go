// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	restclient "k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
	"github.com/skiff-k8s/skiff/apiserver/authz"
	"github.com/skiff-k8s/skiff/apiserver/encryption"
	"github.com/skiff-k8s/skiff/apiserver/inprocess"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/internal/restmapping"
	"github.com/skiff-k8s/skiff/pki"
	"github.com/skiff-k8s/skiff/registry"
	"github.com/skiff-k8s/skiff/registry/admissionregistration"
	"github.com/skiff-k8s/skiff/registry/authentication"
	"github.com/skiff-k8s/skiff/registry/authorization"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/core/allocation"
	"github.com/skiff-k8s/skiff/registry/metrics"
	"github.com/skiff-k8s/skiff/registry/rbac"
	"github.com/skiff-k8s/skiff/registry/resource"
	"github.com/skiff-k8s/skiff/tunnel"
	"github.com/skiff-k8s/skiff/version"
)

// controlPlane is the API server with all that it stands on, and the way in for the parts that use it.
type controlPlane struct {
	store     *datastore.Store
	pki       *pki.PKI
	door      *inprocess.Door
	api       *apiserver.Server
	services  *allocation.Allocator
	issuer    *satoken.Issuer
	authz     *authz.Authz
	informers informers.SharedInformerFactory
	admin     kubernetes.Interface
	mapper    meta.ResettableRESTMapper
	tunnels   *tunnel.Server
	requests  chan struct{} // closed when no request will come any more

	lifetime context.Context // ends with the last request
	end      context.CancelFunc
	follow   []func(context.Context) // each keeps up with a configuration file until its context ends
}

// newControlPlane opens the data, makes what is missing of the keys, and builds the API server. It listens
// when it returns, and serves when run.
func newControlPlane(ctx context.Context, cfg Config, invited []datastore.Member) (_ *controlPlane, err error) {
	listener, err := listen(cfg.SecurePort)
	if err != nil {
		return nil, err
	}
	c := &controlPlane{door: inprocess.NewDoor(), requests: make(chan struct{})}
	c.lifetime, c.end = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			c.end()
			_ = listener.Close()
			if c.store != nil {
				_ = c.store.Close()
			}
		}
	}()
	if err := c.open(ctx, cfg, invited, listener); err != nil {
		return nil, err
	}
	cfg.progress(StepData)
	if c.admin, err = kubernetes.NewForConfig(c.adminConfig()); err != nil {
		return nil, fmt.Errorf("make the in-process client: %w", err)
	}
	c.informers = informers.NewSharedInformerFactoryWithOptions(c.admin, 0, informers.WithTransform(agent.DropManagedFields))
	c.tunnels = tunnel.NewServer(c.informers.Core().V1().Nodes().Lister())
	if c.authz, err = authz.New(c.informers, c.admin); err != nil {
		return nil, err
	}
	c.mapper = restmapping.New(c.admin.Discovery())
	if err := c.build(ctx, cfg, listener); err != nil {
		return nil, err
	}
	return c, nil
}

// open makes the keys and starts etcd, as a new member of others' if it was invited.
func (c *controlPlane) open(ctx context.Context, cfg Config, invited []datastore.Member, listener *net.TCPListener) (err error) {
	c.pki, err = pki.New(pki.Config{
		Dir:            cfg.tlsDir(),
		NodeName:       cfg.NodeName,
		NodeIPs:        cfg.nodeIPs(),
		ServiceIP:      cfg.apiServiceIP().AsSlice(),
		ClusterDomain:  cfg.ClusterDomain,
		ExtraSANs:      cfg.TLSSANs,
		Endpoint:       "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(cfg.SecurePort)),
		Kubeconfig:     cfg.Kubeconfig,
		KubeconfigMode: cfg.KubeconfigMode,
	})
	if err != nil {
		return err
	}
	leave := func() {}
	defer func() { leave() }()
	c.store, err = datastore.Open(ctx, datastore.Config{
		Dir: cfg.dbDir(), Name: cfg.NodeName, Peers: c.peers(cfg), Join: invited,
		Waiting: func(members int) {
			cfg.progress(StepWaiting)
			leave = receive(listener, c.pki.APIServer.GetCertificate, datastore.NoMajority(members))
		},
	})
	return err
}

// peers is how the databases of other servers reach this one's, and it theirs.
func (c *controlPlane) peers(cfg Config) *datastore.Peers {
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(c.pki.EtcdPeerCA.PEM())
	certFile, keyFile := c.pki.EtcdPeer.Files()
	return &datastore.Peers{
		Address: cfg.peerAddress(),
		Serve: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: c.pki.EtcdPeer.GetCertificate,
			ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert,
		},
		Dial: transport.TLSInfo{CertFile: certFile, KeyFile: keyFile, TrustedCAFile: c.pki.EtcdPeerCA.File()},
	}
}

// adminConfig is for the machinery itself and for the shared informers.
func (c *controlPlane) adminConfig() *restclient.Config {
	return c.door.ClientConfig(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
}

// configFor is for a part that acts as a component ("system:kube-scheduler") or any other user.
func (c *controlPlane) configFor(name string, groups ...string) *restclient.Config {
	return c.door.ClientConfig(&user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)})
}

// configForController is for the controller of that name.
func (c *controlPlane) configForController(name string) *restclient.Config {
	return c.door.ClientConfig(controllerUser(name))
}

// controllerUser is who the controller of that name is, as if it had come with a token.
func controllerUser(name string) user.Info {
	account := serviceaccount.UserInfo("kube-system", name, "")
	return &user.DefaultInfo{Name: account.GetName(), Groups: append(account.GetGroups(), user.AllAuthenticated)}
}

func (c *controlPlane) build(ctx context.Context, cfg Config, listener net.Listener) error {
	issuers := cfg.API.Issuers
	if len(issuers) == 0 {
		issuers = []string{"https://kubernetes.default.svc." + cfg.ClusterDomain}
	}
	audiences := authenticator.Audiences(cfg.API.Audiences)
	if len(audiences) == 0 {
		audiences = append(slices.Clone(issuers), "skiff")
	}
	var err error
	if c.issuer, err = satoken.NewIssuer(issuers[0], c.pki.ServiceAccountKey.Private); err != nil {
		return err
	}
	authenticators, err := authn.New(c.lifetime, authn.Config{
		File:            cfg.API.AuthenticationConfig,
		ClientCA:        c.pki.ClientCA,
		RequestHeaderCA: c.pki.RequestHeaderCA,
		Flags:           cfg.API.Authentication,
		Issuers:         issuers,
		TokenKeys:       c.pki.ServiceAccountKey.Public,
		Audiences:       audiences,
		Objects:         satoken.Cached(c.informers, c.admin),
		Client:          c.admin,
		Metrics:         processMetrics{},
	})
	if err != nil {
		return fmt.Errorf("build authentication: %w", err)
	}
	if cfg.API.AuthenticationConfig != "" {
		c.follow = append(c.follow, authenticators.Follow)
	}
	if err := c.authz.ConfigureFlags(cfg.API.Authorization); err != nil {
		return err
	}
	if file := cfg.API.AuthorizationConfig; file != "" {
		if err := c.authz.Configure(file); err != nil {
			return err
		}
		c.follow = append(c.follow, c.authz.Follow)
	}
	dynamicClient, err := dynamic.NewForConfig(c.adminConfig())
	if err != nil {
		return fmt.Errorf("make the in-process client: %w", err)
	}
	effective := version.Effective()
	resolver, err := apiserver.NewServiceResolver(c.informers)
	if err != nil {
		return err
	}
	webhookAuth := apiserver.WebhookAuth(c.adminConfig(), c.tunnels.DialPod)
	chain, err := admission.New(admission.Deps{
		ServiceResolver: resolver, WebhookAuth: webhookAuth, ExternalIPs: cfg.Node.ExternalIPs,
		Client: c.admin, Dynamic: dynamicClient, Informers: c.informers, Authorizer: c.authz, RESTMapper: c.mapper,
		Features: utilfeature.DefaultFeatureGate, Version: effective, Done: c.requests,
		Disabled: cfg.API.DisableAdmissionPlugins,
	})
	if err != nil {
		return fmt.Errorf("build admission: %w", err)
	}
	tokens := &authentication.Tokens{Issuer: c.issuer, Objects: satoken.Live(c.admin), Audiences: audiences, Extend: true}
	c.services, err = allocation.New(allocation.Config{
		ServiceCIDRs: cfg.ServiceCIDRs, FirstNodePort: cfg.NodePorts.First, LastNodePort: cfg.NodePorts.Last,
	})
	if err != nil {
		return fmt.Errorf("build the allocation of Service addresses: %w", err)
	}
	onDemand, err := c.gatewayAPI(cfg)
	if err != nil {
		return err
	}
	proxyCert, proxyKey := c.pki.FrontProxyClient.Files()
	kubelets := c.kubelets()
	usage := metrics.Storages(metrics.Deps{
		Nodes: c.informers.Core().V1().Nodes().Lister(), Pods: c.informers.Core().V1().Pods().Lister(),
		Usage: metrics.NewUsage(metrics.Kubelets{Kubelets: kubelets}),
	})
	deps := c.connections(kubelets)
	deps.Tokens, deps.Services, deps.Budgets, deps.EventTTL = tokens, c.services, c.admin.PolicyV1(), cfg.API.EventTTL
	encrypted := &encryption.Encryption{}
	if file := cfg.API.EncryptionConfig; file != "" {
		if encrypted, err = encryption.Load(c.lifetime, file, cfg.API.ReloadEncryptionConfig); err != nil {
			return err
		}
		c.follow = append(c.follow, encrypted.Follow)
	}
	minTLS, err := cliflag.TLSVersion(cfg.API.TLSMinVersion)
	if err != nil {
		return err
	}
	suites, err := cliflag.TLSCipherSuites(cfg.API.TLSCipherSuites)
	if err != nil {
		return err
	}
	c.api, err = apiserver.New(ctx, apiserver.Config{
		Store:    c.store,
		Services: c.services,
		Resources: registry.All(registry.Deps{
			Core: deps, RBAC: rbac.Deps{Permit: c.authz.Guard.Check},
			Resource:  resource.Deps{Namespaces: c.admin.CoreV1(), Authorizer: c.authz},
			Admission: admissionregistration.Deps{Authorizer: c.authz, Mapper: c.mapper, Policies: c.admin.AdmissionregistrationV1()},
		}),
		Reviews: map[schema.GroupVersion]map[string]genericrest.Storage{
			authenticationv1.SchemeGroupVersion: authentication.Storages(authentication.Deps{Token: authenticators.Token, Audiences: audiences}),
			authorizationv1.SchemeGroupVersion:  authorization.Storages(authorization.Deps{Authorizer: c.authz, Rules: c.authz}),
			corev1.SchemeGroupVersion:           {"componentstatuses": core.ComponentStatuses(c.components())},
			metricsv1.SchemeGroupVersion:        usage,
			metricsv1beta1.SchemeGroupVersion:   usage,
		},
		Door:              c.door,
		Loopback:          c.adminConfig(),
		Listener:          listener,
		MinTLSVersion:     minTLS,
		CipherSuites:      suites,
		ServingCert:       c.pki.APIServer,
		ClientCA:          c.pki.ClientCA,
		Authenticator:     union.New(inprocess.Authenticator(), authenticators.Request),
		APIAudiences:      audiences,
		Authorizer:        c.authz,
		RuleResolver:      c.authz,
		Admission:         chain,
		Informers:         c.informers,
		Transformers:      encrypted.ResourceTransformers,
		HealthChecks:      encrypted.HealthChecks,
		Audit:             cfg.API.Audit,
		TracingFile:       cfg.API.TracingConfig,
		MaxInFlight:       cfg.API.MaxRequestsInFlight + cfg.API.MaxMutatingRequestsInFlight,
		RequestTimeout:    cfg.API.RequestTimeout,
		MinRequestTimeout: time.Duration(cfg.API.MinRequestTimeout) * time.Second,
		ServiceResolver:   resolver,
		WebhookAuth:       webhookAuth,
		ProxyClientCert:   apiserver.CertFiles{CertFile: proxyCert, KeyFile: proxyKey},
		ExternalAddress:   net.JoinHostPort(cfg.NodeIP.String(), strconv.Itoa(cfg.SecurePort)),
		Version:           effective,
		LongRunning:       []string{tunnel.Path, SnapshotPath},
		DialPod:           c.tunnels.DialPod,
		OnDemand:          onDemand,
	})
	if err != nil {
		return err
	}
	document, keys, err := satoken.Discovery(issuers[0], cfg.API.KeysURL, net.JoinHostPort(cfg.NodeIP.String(), strconv.Itoa(cfg.SecurePort)), c.pki.ServiceAccountKey.Public)
	if err != nil {
		return err
	}
	mux := c.api.Generic().Handler.NonGoRestfulMux
	mux.Handle("/.well-known/openid-configuration", document)
	mux.Handle("/openid/v1/jwks", keys)
	mux.Handle(tunnel.Path, c.tunnels)
	return nil
}

// run serves until ctx ends and everything that was asked for is answered.
func (c *controlPlane) run(ctx context.Context) error {
	defer close(c.requests)
	defer context.AfterFunc(ctx, c.tunnels.Close)()
	var following sync.WaitGroup
	defer following.Wait()
	defer c.end()
	for _, follow := range c.follow {
		following.Go(func() { follow(c.lifetime) })
	}
	if len(c.store.Members()) == 1 { // nobody else writes
		if err := c.services.Repair(ctx); err != nil {
			return err
		}
	}
	return c.api.Run(ctx, c.door)
}

// components are what componentstatuses asks. Controllers and scheduler end with the process.
func (c *controlPlane) components() map[string]core.Health {
	alive := func(context.Context) error { return nil }
	return map[string]core.Health{
		"controller-manager": alive,
		"scheduler":          alive,
		"etcd-0":             c.store.Health,
	}
}

// controllerDeps are clients under controllers' names.
func (c *controlPlane) clientFor(name string) kubernetes.Interface {
	return kubernetes.NewForConfigOrDie(c.configForController(name)) // fails for impossible configurations only
}

func (c *controlPlane) metadataFor(name string) metadata.Interface {
	return metadata.NewForConfigOrDie(c.configForController(name))
}

func (c *controlPlane) discovery() discovery.DiscoveryInterface { return c.admin.Discovery() }

// newAgent builds the node that this machine is.
func (c *controlPlane) newAgent(ctx context.Context, cfg Config, clusterReady <-chan struct{}) (*agent.Agent, error) {
	clients := map[string]kubernetes.Interface{}
	for name, config := range map[string]*restclient.Config{
		"node":  c.configFor("system:node:"+cfg.NodeName, user.NodesGroup),
		"proxy": c.configFor("system:kube-proxy"),
		"dns":   c.adminConfig(), // keeps kube-system/kube-dns, which upstream's users get by a manifest
	} {
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, fmt.Errorf("make the client of %s: %w", name, err)
		}
		clients[name] = client
	}
	return agent.New(ctx, agent.Config{
		Settings:     cfg.Node,
		DataDir:      cfg.DataDir,
		StateDir:     cfg.StateDir,
		NodeName:     cfg.NodeName,
		NodeIP:       cfg.NodeIP,
		NodeIP2:      cfg.NodeIP2,
		ClusterCIDRs: cfg.ClusterCIDRs,
		ServiceCIDRs: cfg.ServiceCIDRs,

		LoadBalancerPool: cfg.pool(),
		ClusterDNS:       cfg.ClusterDNS,
		ClusterDomain:    cfg.ClusterDomain,
		ServingCert:      c.pki.KubeletServing.GetCertificate,
		ClientCA:         c.pki.ClientCA,
		RuntimeReady:     func() { cfg.progress(StepRuntime) },
		ClusterReady:     clusterReady,
	}, agent.Deps{Node: clients["node"], Proxy: clients["proxy"], DNS: clients["dns"], Informers: c.informers, All: c.informers})
}

// listen takes the port at once, so that a busy one ends the start with one line.
func listen(port int) (*net.TCPListener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("start apiserver: %w (stop the other server or set --secure-port)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("start apiserver: %w", err)
	}
	return l.(*net.TCPListener), nil
}
