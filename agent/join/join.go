// SPDX-License-Identifier: Apache-2.0

// Package join makes a machine a node of a cluster whose servers are elsewhere: the process of `skiff agent`.
//
// Read in this order: token.go (what a person brings), bootstrap.go (how a machine that knows nothing else gets the
// certificate of a node), certificates.go (how it stays one), servers.go (where the API is), cluster.go (what servers
// tell nodes), and this file, which puts a node together and runs it. The node itself is package agent, the same as on
// a server.
//
// Everything is called by the agent and nothing calls it: what servers want from the node, and from its pods, goes
// through a tunnel (package tunnel) to each of them.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/
package join

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/network/addresspool"
	"github.com/skiff-k8s/skiff/tunnel"
	"github.com/skiff-k8s/skiff/version"
)

// Config is everything a person can say about an agent.
type Config struct {
	DataDir  string // what must survive: certificates, images; /var/lib/skiff
	StateDir string // what ends with the machine's uptime: sockets, mounts; /run/skiff
	NodeName string
	NodeIP   net.IP
	NodeIP2  net.IP // the address of the other family, if it has any

	Server string `json:"-"` // https://host:port of a server; needed once
	Token  string `json:"-"` // needed once

	Node       agent.Settings
	NetworkSet bool `json:"-"` // Node.Network was said; else it is as the servers say

	// Progress is told each step of the start, and how long it took from Started. Optional.
	Progress func(step Step, after time.Duration) `json:"-"`
	// Started is when the start began, as a person sees it.
	Started time.Time `json:"-"`
}

// Step is something that a person who starts an agent waits for.
type Step string

// The steps. Waiting comes only if no server answers, Clock only if a server's clock differs.
const (
	StepWaiting Step = "waiting" // for a server
	StepClock   Step = "clock"   // waiting until a clock is set
	StepJoined  Step = "joined"  // the node has its certificate, and a server knows it
	StepRuntime Step = "runtime" // containers can be started
	StepNode    Step = "node"    // the Node is Ready
)

func (c *Config) progress(step Step) {
	if c.Progress != nil {
		c.Progress(step, time.Since(c.Started))
	}
}

// dir is where an agent keeps what it needs to be the same node again.
func (c *Config) dir() string { return filepath.Join(c.DataDir, "agent", "node") }

// Rates of a kubelet's requests, as upstream's.
const (
	qps   = 50
	burst = 100
)

// How often an agent looks for a server while none answers, how often it says so, and how long it takes no for no answer.
const (
	retryEvery = 2 * time.Second
	tellEvery  = time.Minute
	refusedFor = 20 * time.Second
)

// Agent is one node, and its ways to the servers.
type Agent struct {
	cfg          Config
	claim        *agent.Claim
	servers      *servers
	certificates *certificates
	ca           []byte
	tls          *tls.Config // shows the node's certificate and trusts the cluster's servers

	client  kubernetes.Interface
	cluster Cluster
	factory informers.SharedInformerFactory
	all     informers.SharedInformerFactory // where factory sees what is this node's only
	node    *agent.Agent
}

// New claims the machine and finds out whether it can be a node. cfg must be complete.
func New(ctx context.Context, cfg Config) (_ *Agent, err error) {
	a := &Agent{cfg: cfg}
	if a.claim, err = agent.TakeClaim(cfg.StateDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			a.claim.Release()
		}
	}()
	if err := os.MkdirAll(cfg.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w (set --data-dir)", err)
	}
	named, err := parseServer(cfg.Server)
	if err != nil {
		return nil, err
	}
	if a.servers, err = newServers(filepath.Join(cfg.dir(), "servers.json"), named); err != nil {
		return nil, err
	}
	if a.certificates, err = openCertificates(cfg.dir()); err != nil {
		return nil, err
	}
	if err := cfg.Node.Preflight(ctx, cfg.NodeIP); err != nil {
		return nil, err
	}
	return a, cfg.Node.Unpack(cfg.DataDir)
}

// Run joins if need be, and runs the node until ctx ends or a part of it fails.
func (a *Agent) Run(ctx context.Context) error {
	defer a.claim.Release()
	err := a.join(ctx)
	if ctx.Err() != nil {
		return nil // it was told to end meanwhile
	}
	if err != nil {
		return err
	}
	if err := a.meetServer(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	if !a.cfg.NetworkSet {
		a.cfg.Node.Network = a.cluster.Network
	}
	if err := a.record(); err != nil {
		return err
	}
	a.cfg.progress(StepJoined)
	if err := a.build(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.certificates.renew(ctx, a.client, a.cfg.NodeName, a.cfg.NodeIP, a.cfg.NodeIP2) })
	group.Go(func() error { return a.runTunnels(ctx) })
	group.Go(func() error { return a.followServers(ctx) })
	group.Go(func() error { return a.announce(ctx) })
	a.factory.StartWithContext(ctx)
	a.all.StartWithContext(ctx)
	group.Go(func() error { return a.node.Run(ctx) })
	err = group.Wait()
	a.factory.Shutdown()
	a.all.Shutdown()
	return err
}

// join gets the certificate of a node, unless there is one.
func (a *Agent) join(ctx context.Context) error {
	caFile := filepath.Join(a.cfg.dir(), "server-ca.crt")
	ca, err := os.ReadFile(caFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	a.ca = ca
	if own := a.certificates.client.current.Load(); err == nil && own != nil && time.Now().Before(own.Leaf.NotAfter) {
		return a.isSameNode(own.Leaf)
	}
	if a.cfg.Token == "" {
		return errors.New("this machine needs a token to join (skiff token create, on a server, prints one; give it with --token)")
	}
	token, err := ParseToken(a.cfg.Token)
	if err != nil {
		return err
	}
	var got pair
	err = untilThen(ctx, a.cfg.progress, func() error {
		got, err = a.apply(ctx, token)
		return err
	})
	if err != nil {
		return err
	}
	// The authority before the certificate: with the latter the former is never asked for again.
	if err := os.WriteFile(caFile, a.ca, 0o644); err != nil {
		return fmt.Errorf("keep the cluster's certificate authority: %w", err)
	}
	if err := a.servers.remember(); err != nil {
		return fmt.Errorf("keep the list of servers: %w", err)
	}
	if _, err := a.certificates.client.Update(got.cert, got.key); err != nil {
		return fmt.Errorf("keep the node's certificate: %w", err)
	}
	return nil
}

// apply asks to become a node.
func (a *Agent) apply(ctx context.Context, token Token) (pair, error) {
	var err error
	if a.ca, err = fetchCA(ctx, a.servers.dialer.DialContext, token.CAHash); err != nil {
		return pair{}, err
	}
	trust := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: apiName, RootCAs: a.roots()}
	config := a.config(trust)
	config.BearerToken = token.bearer()
	var got pair
	if err = checkServer(config); err == nil {
		got, err = requestCertificate(ctx, config, a.cfg.NodeName)
	}
	return got, explain(err, func() error { return askReady(ctx, trust, a.servers.list()[0]) })
}

func (a *Agent) isSameNode(own *x509.Certificate) error {
	if name := strings.TrimPrefix(own.Subject.CommonName, "system:node:"); name != a.cfg.NodeName {
		return fmt.Errorf("this machine has joined as node %s and cannot become %s (set --node-name=%[1]s, or remove it first with skiff uninstall)", name, a.cfg.NodeName)
	}
	return nil
}

func (a *Agent) roots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.ca)
	return roots
}

// config is for clients that speak to whichever server answers.
func (a *Agent) config(tlsConfig *tls.Config) *restclient.Config {
	transport := utilnet.SetTransportDefaults(&http.Transport{DialContext: a.servers.dialer.DialContext, TLSClientConfig: tlsConfig, Proxy: nil})
	return &restclient.Config{
		Host:      "https://" + apiName,
		Transport: &doubting{RoundTripper: transport, servers: a.servers, ready: func(ctx context.Context, server string) error { return askReady(ctx, tlsConfig, server) }},
		QPS:       qps, Burst: burst,
		UserAgent: "kubelet/" + version.Skiff + " skiff-agent", // its first word manages the fields that the node writes
	}
}

// checkServer asks for the server's version, and whether this one can be a node of it.
func checkServer(config *restclient.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	server, err := client.Discovery().ServerVersion()
	if err != nil {
		return err
	}
	return checkVersion(version.Kubernetes, server)
}

// meetServer waits for a server that knows this node, and hears from it what the cluster is like. While none answers,
// the pods of an earlier run go on.
func (a *Agent) meetServer(ctx context.Context) error {
	a.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: apiName, RootCAs: a.roots(), GetClientCertificate: a.certificates.client.forClient}
	a.certificates.client.renewed = a.servers.dialer.CloseAll // so that the next request shows the new one
	config := a.config(a.tls)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the node's client: %w", err)
	}
	a.client = client
	return a.untilMet(ctx, func() error {
		if a.cluster, err = readCluster(ctx, client); err != nil {
			return err
		}
		return checkServer(config)
	})
}

// untilMet asks again until a server answers, or all that are asked have refused this node for refusedFor. One that starts, or that
// is behind the others, may do so for a moment.
func (a *Agent) untilMet(ctx context.Context, ask func() error) error {
	var since, told time.Time // of which on there were refusals only, and when it was said what is wrong
	for {
		asked := a.servers.list()[0]
		err := ask()
		if err == nil {
			return nil
		}
		final := refusal(err)
		switch {
		case final == nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		case time.Since(since) >= refusedFor:
			return final
		}
		if told.IsZero() {
			a.cfg.progress(waitsFor(err))
		}
		if time.Since(told) >= tellEvery {
			klog.FromContext(ctx).Error(cmp.Or(final, err), "Waiting for a server that takes this node", "servers", a.servers.list())
			told = time.Now()
		}
		if all := a.servers.list(); len(all) > 1 && all[0] == asked { // else it was left already, for one that is ready
			a.servers.use(all[1])
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// record keeps the settings for those who clean up after the agent; see server.Config.LastRun, which reads them.
func (a *Agent) record() error {
	cfg := struct {
		Config
		ClusterCIDRs, ServiceCIDRs []netip.Prefix
	}{a.cfg, a.cluster.ClusterCIDRs, a.cluster.ServiceCIDRs}
	raw, err := json.MarshalIndent(cfg, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(a.cfg.DataDir, "settings.json"), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the settings: %w (set --data-dir)", err)
	}
	return nil
}

func (a *Agent) build(ctx context.Context) error {
	clientCA, err := dynamiccertificates.NewStaticCAContent("client-ca", []byte(a.cluster.ClientCA))
	if err != nil {
		return fmt.Errorf("read the authority of those who may call this node: %w", err)
	}
	pool, err := addresspool.Parse(a.cluster.LoadBalancerPool)
	if err != nil {
		return fmt.Errorf("read the addresses that nodes announce: %w", err)
	}
	a.factory = informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(agent.DropManagedFields))
	// Of pods a node needs its own; those of others only once there is a NetworkPolicy.
	a.all = informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(agent.DropManagedFields))
	a.factory.InformerFor(&corev1.Pod{}, func(client kubernetes.Interface, resync time.Duration) cache.SharedIndexInformer {
		return coreinformers.NewFilteredPodInformer(client, metav1.NamespaceAll, resync, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName).String()
		})
	})
	a.factory.Discovery().V1().EndpointSlices().Informer() // for followServers
	a.node, err = agent.New(ctx, agent.Config{
		Settings:      a.cfg.Node,
		DataDir:       a.cfg.DataDir,
		StateDir:      a.cfg.StateDir,
		NodeName:      a.cfg.NodeName,
		NodeIP:        a.cfg.NodeIP,
		NodeIP2:       a.cfg.NodeIP2,
		ClusterCIDRs:  a.cluster.ClusterCIDRs,
		ServiceCIDRs:  a.cluster.ServiceCIDRs,
		ClusterDNS:    a.cluster.DNS,
		ClusterDomain: a.cluster.Domain,

		LoadBalancerPool: pool,

		ServingCert:  a.certificates.serving.forServer,
		ClientCA:     clientCA,
		RuntimeReady: func() { a.cfg.progress(StepRuntime) },
	}, agent.Deps{Node: a.client, Proxy: a.client, DNS: a.client, Informers: a.factory, All: a.all})
	return err
}

// announce tells when the Node has become Ready.
func (a *Agent) announce(ctx context.Context) error {
	ready, err := agent.AwaitReady(ctx, a.factory.Core().V1().Nodes().Informer(), a.cfg.NodeName, a.cfg.Started)
	if ready {
		a.cfg.progress(StepNode)
	}
	return err
}

// followServers learns from the cluster where its servers are.
func (a *Agent) followServers(ctx context.Context) error {
	informer := a.factory.Discovery().V1().EndpointSlices().Informer()
	learn := func(obj any) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if ok && slice.Namespace == metav1.NamespaceDefault && slice.Labels[discoveryv1.LabelServiceName] == "kubernetes" {
			a.servers.learn(ctx, slice)
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: learn, UpdateFunc: func(_, obj any) { learn(obj) }})
	if err != nil {
		return fmt.Errorf("watch for servers: %w", err)
	}
	<-ctx.Done()
	_ = informer.RemoveEventHandler(registration)
	return nil
}

// runTunnels keeps a tunnel to each server.
func (a *Agent) runTunnels(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	running := map[string]context.CancelFunc{}
	for {
		all, changed := a.servers.watch()
		wanted := map[string]bool{}
		for _, server := range all {
			wanted[server] = true
			if running[server] != nil {
				continue
			}
			tunnelCtx, cancel := context.WithCancel(ctx)
			running[server] = cancel
			client := &tunnel.Client{Server: server, TLS: a.tls, Serves: a.node.Has}
			group.Go(func() error { return client.Run(tunnelCtx) })
		}
		for server, cancel := range running {
			if !wanted[server] {
				cancel()
				delete(running, server)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, cancel := range running {
				cancel()
			}
			return group.Wait()
		}
	}
}
