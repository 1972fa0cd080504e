// SPDX-License-Identifier: Apache-2.0

// Package server builds a Skiff server out of its parts, runs them and stops them in order.
//
// The control plane comes first: keys and etcd, then the API server. Then all that knows only the API:
// controllers and scheduler here, the node's parts in package agent. They share one set of informers and
// reach the API without a socket, each under its own name. They stop in reverse: what acts first, what is
// acted upon last.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/agent/join"
	"github.com/skiff-k8s/skiff/apiserver/ondemand"
	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/csrsigning"
	"github.com/skiff-k8s/skiff/controllers/nodeipam"
	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/gateway/ingress"
	"github.com/skiff-k8s/skiff/gateway/proxy"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/scheduler"
	schedulermetrics "github.com/skiff-k8s/skiff/scheduler/metrics"
)

// Server is a control plane and, unless configured otherwise, a node.
type Server struct {
	cfg         Config
	plane       *controlPlane
	controllers *controllers.Manager
	scheduler   *scheduler.Scheduler
	agent       *agent.Agent        // nil without a node
	dataPlane   *proxy.Proxy        // nil without a node
	ingress     *ingress.Controller // nil if Ingresses are not served
	simulated   *simulated.Fleet    // nil without simulated nodes
	claim       *agent.Claim
	growth      *growth
	endpoints   *apiEndpoints

	clusterReady  chan struct{}   // closed when the API has what every cluster has
	informersDone <-chan struct{} // closed when informers are to end; set before the scheduler runs
}

// New opens the data and builds all parts. cfg must be complete. The API's port and the state directory are
// taken when New returns; Run gives them back.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Started.IsZero() {
		cfg.Started = time.Now()
	}
	s := &Server{cfg: cfg, clusterReady: make(chan struct{})}
	if s.claim, err = agent.TakeClaim(cfg.StateDir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	invited, err := s.cfg.enter(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.cfg.record(); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, invited); err != nil {
		return nil, err
	}
	return s, s.buildParts(ctx)
}

// prepare looks at the machine, and meanwhile builds the control plane: one waits for the kernel, the other
// for the disk.
func (s *Server) prepare(ctx context.Context, invited []datastore.Member) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.Go(func() (err error) {
		s.plane, err = newControlPlane(ctx, s.cfg, invited)
		return err
	})
	if !s.cfg.NoNode {
		group.Go(func() error {
			err := s.cfg.Node.Preflight(ctx, s.cfg.NodeIP)
			if err == nil {
				err = s.cfg.Node.Unpack(s.cfg.DataDir)
			}
			if err != nil {
				cancel() // who waits for the other is spared that
			}
			return err
		})
	}
	return group.Wait()
}

// close gives back what New has taken.
func (s *Server) close() {
	if s.plane != nil {
		_ = s.plane.store.Close()
	}
	s.claim.Release()
}

func (s *Server) buildParts(ctx context.Context) error {
	leases := []string{controllersLease, schedulerLease}
	if s.cfg.Simulated.Nodes > 0 {
		leases = append(leases, simulatedLease)
	}
	s.growth = newGrowth(len(s.plane.store.Members()) > 1, leases...)
	own, _ := netip.AddrFromSlice(s.cfg.NodeIP)
	s.endpoints = &apiEndpoints{
		client: s.plane.admin, leases: s.plane.api.MasterLeases(), etcd: s.plane.store.Client(), own: own.Unmap(), port: int32(s.cfg.SecurePort),
	}
	manager, err := kubernetes.NewForConfig(s.plane.configFor("system:kube-controller-manager"))
	if err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	s.controllers, err = controllers.New(controllers.Deps{
		ClientFor:   s.plane.clientFor,
		MetadataFor: s.plane.metadataFor,
		ConfigFor:   s.plane.configForController,
		Discovery:   s.plane.discovery(),
		Informers:   s.plane.informers,
		PodRanges:   podRanges(s.cfg.ClusterCIDRs),
		RootCA:      s.plane.pki.ServerCA.PEM(),
		ServiceLB:   s.cfg.serviceLB(s.ingressPort),

		LoadBalancerPool: s.cfg.pool(),
		KeepEndedPods:    cmp.Or(s.cfg.KeepEndedPods, -1),

		Signers: csrsigning.Authorities{
			Client: s.plane.pki.ClientCA, KubeletServer: s.plane.pki.KubeletCA, Legacy: s.plane.pki.ServerCA,
		},

		AddOns: &controllers.AddOns{
			Dir: s.cfg.manifestsDir(), Server: s.cfg.NodeName, Disabled: s.cfg.Disable,
			Config: s.plane.configFor(ondemand.AddOns, user.SystemPrivilegedGroup),
		},
		Metrics:         processMetrics{},
		ManagerClient:   manager,
		APIServerClient: s.plane.admin,
		IssueToken:      s.plane.issuer.IssueLegacy,
	})
	if err != nil {
		return fmt.Errorf("build controllers: %w", err)
	}
	client, err := kubernetes.NewForConfig(s.plane.configFor("system:kube-scheduler"))
	if err != nil {
		return fmt.Errorf("make the scheduler's client: %w", err)
	}
	if s.scheduler, err = scheduler.New(s.schedulerConfig(), client, s.plane.informers, nil); err != nil {
		return fmt.Errorf("build the scheduler: %w", err)
	}
	mux := s.plane.api.Generic().Handler.NonGoRestfulMux
	mux.HandlePrefix(scheduler.ExplainPath, s.scheduler)
	servers := &members{cfg: s.cfg, plane: s.plane, growth: s.growth, ready: s.clusterReady}
	mux.Handle(MembersPath, servers)
	mux.HandlePrefix(MembersPath+"/", servers)
	mux.Handle(SnapshotPath, &snapshots{cfg: s.cfg, plane: s.plane})
	mux.Handle(schedulermetrics.ResourcesPath, schedulermetrics.NewResources(s.plane.informers.Core().V1().Pods().Lister()).Handler())
	if err := s.simulate(); err != nil || s.cfg.NoNode {
		return err
	}
	if s.agent, err = s.plane.newAgent(ctx, s.cfg, s.clusterReady); err != nil {
		return err
	}
	return s.buildDataPlane()
}

// schedulerConfig lets informers that the scheduler asks for later run for as long as all others.
func (s *Server) schedulerConfig() scheduler.Config {
	cfg := s.cfg.Scheduler
	cfg.Metrics = processMetrics{}
	cfg.StartInformers = func() { s.plane.informers.Start(s.informersDone) }
	return cfg
}

// processMetrics are those that /metrics of the API server shows. Of several servers in one process, as in tests, it shows the first.
type processMetrics struct{}

func (processMetrics) Register(m metrics.Registerable) error {
	return firstOnly(legacyregistry.Register(m))
}

func (processMetrics) CustomRegister(c metrics.StableCollector) error {
	return firstOnly(legacyregistry.CustomRegister(c))
}

func firstOnly(err error) error {
	if err != nil {
		klog.Background().V(2).Info("A metric is not shown", "err", err)
	}
	return nil
}

// simulate builds the nodes that exist in the API only. One client acts for all of them, as no kubelet may.
func (s *Server) simulate() error {
	if s.cfg.Simulated.Nodes == 0 {
		return nil
	}
	client, err := kubernetes.NewForConfig(s.simulatedConfig())
	if err != nil {
		return fmt.Errorf("make the client of the simulated nodes: %w", err)
	}
	s.simulated, err = simulated.New(s.cfg.Simulated, client, s.plane.informers)
	return err
}

func (s *Server) simulatedConfig() *restclient.Config {
	return s.plane.configFor("system:simulated-nodes", user.SystemPrivilegedGroup)
}

func podRanges(clusters []netip.Prefix) []nodeipam.Range {
	var ranges []nodeipam.Range
	for _, cluster := range clusters {
		ranges = append(ranges, nodeipam.Range{Cluster: cluster, NodeBits: nodeBits(cluster)})
	}
	return ranges
}

// nodeBits is the size of a node's share of the cluster CIDR: 254 pods, or upstream's /64 for IPv6.
func nodeBits(cluster netip.Prefix) int {
	if cluster.Addr().Is6() {
		return max(64, cluster.Bits())
	}
	return max(24, cluster.Bits())
}

// Run runs all parts until ctx ends or one of them fails, and returns when all have stopped.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	// The API outlives those who use it, so that their last words are heard.
	planeCtx, stopPlane := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPlane()
	planeDone := make(chan error, 1)
	go func() { planeDone <- s.plane.run(planeCtx) }()

	parts, partsCtx := errgroup.WithContext(ctx)
	parts.Go(func() error { return s.plane.pki.Run(partsCtx) })
	parts.Go(func() error { return s.plane.pki.Follow(partsCtx) })
	parts.Go(func() error { return s.runParts(partsCtx) })
	parts.Go(func() error {
		select {
		case err := <-planeDone:
			planeDone <- err
			return errors.Join(errors.New("the API server stopped"), err)
		case <-s.plane.store.Stopped():
			return datastore.ErrRemoved
		case <-partsCtx.Done():
			return nil
		}
	})
	err := parts.Wait()
	stopPlane()
	if planeErr := <-planeDone; err == nil {
		err = planeErr
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	return err
}

// runParts runs what acts on the cluster. The container runtime is made ready while the API is.
func (s *Server) runParts(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	if s.agent != nil {
		group.Go(func() error { return s.agent.Run(ctx) })
		group.Go(func() error { return s.announceNode(ctx) })
	}
	group.Go(func() error {
		if err := s.makeCluster(ctx); err != nil {
			return err
		}
		group.Go(func() error { return keepAuthentication(ctx, s.plane.admin, s.plane.pki) })
		group.Go(func() error { return s.keepEndpoints(ctx) })
		group.Go(func() error {
			return s.act(ctx, controllersLease, s.plane.configFor("system:kube-controller-manager"), s.actOnce)
		})
		group.Go(func() error {
			return s.act(ctx, schedulerLease, s.plane.configFor("system:kube-scheduler"), s.scheduler.Run)
		})
		if s.simulated != nil {
			group.Go(func() error { return s.act(ctx, simulatedLease, s.simulatedConfig(), s.simulated.Run) })
		}
		if s.dataPlane != nil {
			group.Go(func() error { return s.runDataPlane(ctx) })
		}
		group.Go(func() error { return s.runGateway(ctx) })
		return nil
	})
	return group.Wait()
}

// actOnce is what one server only does, besides the scheduler.
func (s *Server) actOnce(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.controllers.Run(ctx) })
	if s.growth.done() { // else it was done before anybody could write
		group.Go(func() error { return s.plane.services.RepairBesideOthers(ctx, repairPause) })
	}
	return group.Wait()
}

// repairPause is longer than any request takes.
const repairPause = 2 * time.Minute

// act runs a part that must act in one server only. Where there is one, nothing needs to be decided.
func (s *Server) act(ctx context.Context, lease string, config *restclient.Config, run func(context.Context) error) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the client of %s: %w", lease, err)
	}
	if s.growth.done() {
		return lead(ctx, client, lease, run)
	}
	return leadLater(ctx, client, lease, s.growth.several, func() { close(s.growth.held[lease]) }, run)
}

// keepEndpoints keeps this server among the endpoints of the API, once there are others.
func (s *Server) keepEndpoints(ctx context.Context) error {
	select {
	case <-s.growth.several:
		return s.endpoints.run(ctx)
	case <-ctx.Done():
		return nil
	}
}

// publishEndpoints says where the API is.
func (s *Server) publishEndpoints(ctx context.Context) error {
	if s.growth.done() {
		return s.endpoints.renew(ctx)
	}
	return s.endpoints.publishOwn(ctx)
}

// makeCluster brings the cluster's own objects in place.
func (s *Server) makeCluster(ctx context.Context) error {
	s.informersDone = ctx.Done()
	s.plane.informers.Start(s.informersDone)
	for {
		err := s.writeCluster(ctx)
		if err == nil {
			break
		}
		if !s.growth.done() || !passes(err) || ctx.Err() != nil {
			return err
		}
		klog.FromContext(ctx).Error(err, "Bringing the cluster's own objects in place, trying again")
		select {
		case <-time.After(writeAgain):
		case <-ctx.Done():
			return nil
		}
	}
	close(s.clusterReady)
	s.cfg.progress(StepAPI)
	klog.FromContext(ctx).Info("API is ready", "port", s.cfg.SecurePort, "seconds", time.Since(s.cfg.Started).Seconds())
	return nil
}

// writeAgain is how long one of several servers waits after an error that passes.
const writeAgain = 2 * time.Second

// passes says of an error of one of several servers that waiting may mend it: others write the same things, or there is no majority for
// a moment.
func passes(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true
	}
	code := status.Status().Code
	return code >= http.StatusInternalServerError || code == http.StatusConflict || code == http.StatusTooManyRequests
}

// writeCluster writes the cluster's own objects.
func (s *Server) writeCluster(ctx context.Context) error {
	if err := s.plane.authz.Policy.Ensure(ctx, s.plane.admin); err != nil {
		return fmt.Errorf("put the default roles in place: %w", err)
	}
	if err := (clusterObjects{client: s.plane.admin, cfg: s.cfg, rootCA: s.plane.pki.ServerCA.PEM(), endpoints: s.publishEndpoints}).ensure(ctx); err != nil {
		return err
	}
	if err := publishAuthentication(ctx, s.plane.admin, s.plane.pki); err != nil {
		return err
	}
	return s.publishCluster(ctx)
}

// publishCluster tells nodes on other machines what they have to know.
func (s *Server) publishCluster(ctx context.Context) error {
	return join.Cluster{
		ClusterCIDR: s.cfg.ClusterCIDRs[0], ServiceCIDR: s.cfg.ServiceCIDRs[0], ClusterCIDRs: s.cfg.ClusterCIDRs, ServiceCIDRs: s.cfg.ServiceCIDRs,
		DNS: s.cfg.ClusterDNS, Domain: s.cfg.ClusterDomain, LoadBalancerPool: s.cfg.LoadBalancerPool,
		Network: s.cfg.Node.Network, ClientCA: string(s.plane.pki.ClientCA.PEM()),
	}.Publish(ctx, s.plane.admin)
}

// announceNode tells when the Node has become Ready.
func (s *Server) announceNode(ctx context.Context) error {
	ready, err := agent.AwaitReady(ctx, s.plane.informers.Core().V1().Nodes().Informer(), s.cfg.NodeName, s.cfg.Started)
	if ready {
		s.cfg.progress(StepNode)
	}
	return err
}
