// SPDX-License-Identifier: Apache-2.0

// Package dns answers the cluster's DNS names: CoreDNS's chain of plugins in this process, with a
// `kubernetes` plugin of ours that reads the shared informers.
//
// Server listens on addresses of the node, and publishes itself behind the kube-dns Service, whose
// cluster address pods have in their resolv.conf; the proxy does the rest. What the names mean is
// the Kubernetes DNS specification, 1.1; what a Corefile says means what it means to CoreDNS.
//
// It never copies a Service or EndpointSlice: two or three extra indexes on the informers are all
// it keeps. Nothing is cached for cluster names, so that an answer is as new as the informers.
// Reference: https://github.com/kubernetes/dns/blob/master/docs/specification.md
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	// Corefile replaces the default one. It says itself where to listen.
	Corefile string
}

// Server is a DNS server. Its zero value is of no use; see New.
type Server struct {
	cfg     Config
	records *records
	client  clientset.Interface

	services, slices cache.SharedIndexInformer
}

// New returns a Server. The caller starts factory; client is for publishing the Service.
func New(cfg Config, factory informers.SharedInformerFactory, client clientset.Interface) (*Server, error) {
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	if cfg.Corefile == "" && len(cfg.Listen) == 0 {
		return nil, errors.New("dns: no address to listen on")
	}
	rec, err := newRecords(factory)
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
	corefile := s.cfg.Corefile
	if corefile == "" {
		var err error
		if corefile, err = defaultCorefile(s.cfg); err != nil {
			return err
		}
	}
	instance, err := start(s, corefile)
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Serving cluster DNS", "domain", s.cfg.Domain, "listen", s.cfg.Listen)
	group, ctx := errgroup.WithContext(ctx)
	if len(s.cfg.ClusterIPs) > 0 {
		p := &publisher{cfg: s.cfg, client: s.client, services: s.services, slices: s.slices}
		group.Go(func() error { return p.run(ctx) })
	}
	<-ctx.Done()
	return errors.Join(group.Wait(), stop(instance))
}

// CoreDNS keeps its plugins and the order of its directives in package variables, and their set-up
// gets nothing from the caller. starting lends them the Server that is being started.
var (
	register sync.Once
	startMu  sync.Mutex // guards starting
	starting *Server
)

// start runs corefile. Errors are one line, with the line in the Corefile that they are about.
func start(s *Server, corefile string) (*caddy.Instance, error) {
	startMu.Lock()
	defer startMu.Unlock()
	register.Do(registerPlugins)
	starting = s
	defer func() { starting = nil }()
	instance, err := caddy.Start(caddy.CaddyfileInput{Contents: []byte(corefile), Filepath: "Corefile", ServerTypeName: "dns"})
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
