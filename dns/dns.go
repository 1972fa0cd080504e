// SPDX-License-Identifier: Apache-2.0

// Package dns answers the cluster's DNS names: CoreDNS's chain of plugins in this process, with a
// `kubernetes` plugin of ours that reads the shared informers.
//
// Server listens on addresses of the node, and publishes itself behind the kube-dns Service, whose
// cluster address pods have in their resolv.conf; the proxy does the rest. What the names mean is
// the Kubernetes DNS specification, 1.1; what a Corefile says means what it means to CoreDNS, within what adapt.go says.
// Corefiles come from ConfigMaps (configmaps.go), which are followed.
//
// It never copies a Service or EndpointSlice: two or three extra indexes on the informers are all
// it keeps. Nothing is cached for cluster names, so that an answer is as new as the informers.
// Reference: https://github.com/kubernetes/dns/blob/master/docs/specification.md
package dns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Config says where the server listens and what it serves.
type Config struct {
	// Listen are the addresses of this node to serve at.
	Listen []netip.AddrPort
	// Domain is the cluster's, cluster.local by default.
	Domain string
	// ClusterIPs are the addresses of the kube-dns Service. Without them nothing is published.
	ClusterIPs []string
	// Endpoint is where the Service leads: the one of Listen that the pods of all nodes reach.
	Endpoint netip.AddrPort
	// NodeName tells this server's EndpointSlice from those of other nodes.
	NodeName string
	// ResolvConf names the servers for all other names, /etc/resolv.conf by default.
	ResolvConf string
	// Dir is for files that a Corefile names; below the system's folder for temporary files by default.
	Dir string
}

// Server is a DNS server. Its zero value is of no use; see New.
type Server struct {
	cfg     Config
	records *records
	client  clientset.Interface

	services, slices cache.SharedIndexInformer

	// What is in force; only Run's goroutine uses it.
	instance *caddy.Instance
	files    files
	asked    files  // what people asked for last
	dir      string // where they are
}

// New returns a Server. The caller starts factory. Pods are asked for only if a Corefile wants them, of a factory that sees
// those of all nodes. client is for publishing the Service and for the ConfigMaps of the Corefile.
func New(cfg Config, factory, pods informers.SharedInformerFactory, client clientset.Interface) (*Server, error) {
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = resolvConfPath
	}
	if len(cfg.Listen) == 0 {
		return nil, errors.New("dns: no address to listen on")
	}
	rec, err := newRecords(factory, pods)
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	rec.clusterIPs = cfg.ClusterIPs
	return &Server{
		cfg: cfg, records: rec, client: client,
		services: factory.Core().V1().Services().Informer(),
		slices:   factory.Discovery().V1().EndpointSlices().Informer(),
	}, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", s.records.synced...) {
		return nil // asked to stop
	}
	s.records.lifetime = ctx
	if s.cfg.Dir != "" { // what a run left that did not end well
		if err := os.RemoveAll(s.cfg.Dir); err != nil {
			return fmt.Errorf("dns: %w", err)
		}
	}
	follow, err := followConfigMaps(ctx, s.client)
	if err != nil {
		return fmt.Errorf("dns: follow ConfigMaps: %w", err)
	}
	logger := klog.FromContext(ctx)
	s.obey(ctx, follow.files(s.cfg.Domain))
	if s.instance == nil {
		if err := s.apply(ctx, filesOf(nil, nil, s.cfg.Domain)); err != nil {
			return err
		}
	}
	logger.Info("Serving cluster DNS", "domain", s.cfg.Domain, "listen", s.cfg.Listen)
	group, ctx := errgroup.WithContext(ctx)
	if len(s.cfg.ClusterIPs) > 0 {
		p := &publisher{cfg: s.cfg, client: s.client, services: s.services, slices: s.slices}
		group.Go(func() error { return p.run(ctx) })
	}
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-follow.changed:
			s.obey(ctx, follow.files(s.cfg.Domain))
		}
	}
	return errors.Join(group.Wait(), stop(s.instance), os.RemoveAll(s.dir))
}

// obey puts a Corefile in force, or tells people why not. The one before it goes on then.
func (s *Server) obey(ctx context.Context, f files) {
	if maps.Equal(f, s.asked) {
		return
	}
	s.asked = f
	cause := s.apply(ctx, f)
	if cause == nil {
		return
	}
	logger := klog.FromContext(ctx)
	logger.Error(cause, "The Corefile is not used", "configMap", serviceNamespace+"/"+configMap)
	if err := s.report(ctx, cause); err != nil && ctx.Err() == nil {
		logger.V(2).Info("Left the event about the Corefile", "err", err)
	}
}

// apply puts a Corefile in force, or leaves all as it is and returns why. Questions are answered meanwhile.
func (s *Server) apply(ctx context.Context, f files) (err error) {
	if maps.Equal(f, s.files) {
		return nil
	}
	if s.cfg.Dir != "" {
		if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
			return fmt.Errorf("dns: %w", err)
		}
	}
	dir, err := os.MkdirTemp(s.cfg.Dir, "dns-")
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if err := f.write(dir); err != nil {
		return err
	}
	corefile, err := os.ReadFile(filepath.Join(dir, mainFile))
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	asked, err := upstreams(s.cfg)
	if err != nil {
		return err
	}
	here := place{dir: dir, listen: s.cfg.Listen, upstreams: asked, resolv: s.cfg.ResolvConf, isSelf: func(a netip.Addr) bool { return isSelf(s.cfg, a) }}
	adapted, err := adapt(string(corefile), here)
	if err != nil {
		return err
	}
	instance, err := start(s, adapted.text)
	if err != nil {
		return adapted.explain(err, here)
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // of no use, and little
	}
	s.instance, s.files, s.dir = instance, f, dir
	klog.FromContext(ctx).V(2).Info("Corefile in force", "withoutMeaningHere", adapted.ignored)
	return nil
}

// CoreDNS keeps its plugins and the order of its directives in package variables, and their set-up
// gets nothing from the caller. starting lends them the Server that is being started.
var (
	register sync.Once
	startMu  sync.Mutex // guards starting
	starting *Server
)

// start runs corefile instead of what runs. Errors are one line, with the line in the Corefile that they are about.
func start(s *Server, corefile string) (*caddy.Instance, error) {
	startMu.Lock()
	defer startMu.Unlock()
	register.Do(registerPlugins)
	starting = s
	defer func() { starting = nil }()
	input := caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: mainFile, ServerTypeName: "dns"}
	var instance *caddy.Instance
	var err error
	if s.instance == nil {
		instance, err = caddy.Start(input)
	} else {
		instance, err = s.instance.Restart(input)
	}
	if err != nil {
		return nil, fmt.Errorf("start DNS: %w", err)
	}
	return instance, nil
}

func stop(instance *caddy.Instance) error {
	return errors.Join(append(instance.ShutdownCallbacks(), instance.Stop())...)
}

// registerPlugins makes the directives of a Corefile known.
func registerPlugins() {
	caddy.Quiet, dnsserver.Quiet = true, true
	dnsserver.Directives = directives
	registerOwn()
}
