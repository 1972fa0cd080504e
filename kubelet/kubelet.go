// SPDX-License-Identifier: Apache-2.0

// Package kubelet runs the pods that are bound to this node, through any CRI runtime.
//
// The parts, from the outside in:
//
//   - node keeps the Node object and its Lease.
//   - workers.go has one worker per pod: syncing, then terminating, then terminated; never back, for one UID.
//   - sync.go is one step of such a worker, level-driven: read the runtime, decide, act, report.
//   - containers makes the containers of one pod what its spec says; images, podnet, cgroups and the Volumes and Env that
//     are passed in serve it.
//   - allocation remembers what a pod was granted; resize.go grants more or less of it to a running one.
//   - userns gives users of their own to pods that want them.
//   - mirror.go runs the pods of files on this node, which package static reads, and shows them in the API.
//   - probe asks containers how they are; status tells the API.
//   - devices, dra, cpus and memory hand out what only one can have, on NUMA nodes that numa finds; assigned.go puts that
//     into pods, podresources tells who has it.
//   - metrics counts what is done, for dashboards; startup measures how long pods take to start.
//   - oom hears that the machine has run out of memory.
//   - shutdown gives pods time to end when the machine is shut down; shutdown.go ends them.
//   - eviction ends pods when the node runs short of something; evict.go tells it what they use.
//   - advisories warns of runtimes out of which containers are known to escape.
//   - events.go hears from the runtime what changed; housekeeping.go removes what is dead and rotates logs.
//
// What runs is known by the labels on the containers alone, so a new process takes over all containers of an earlier
// one, and a stop of this process leaves them running.
package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/cpuset"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/advisories"
	"github.com/skiff-k8s/skiff/kubelet/allocation"
	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/devices"
	"github.com/skiff-k8s/skiff/kubelet/dra"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/kubelet/numa"
	"github.com/skiff-k8s/skiff/kubelet/oom"
	"github.com/skiff-k8s/skiff/kubelet/podnet"
	"github.com/skiff-k8s/skiff/kubelet/podresources"
	"github.com/skiff-k8s/skiff/kubelet/podsapi"
	"github.com/skiff-k8s/skiff/kubelet/probe"
	"github.com/skiff-k8s/skiff/kubelet/shutdown"
	"github.com/skiff-k8s/skiff/kubelet/startup"
	"github.com/skiff-k8s/skiff/kubelet/status"
	"github.com/skiff-k8s/skiff/kubelet/userns"
)

// Config is what the operator chose.
type Config struct {
	Node    node.Config
	Cgroups cgroups.Config
	DNS     podnet.DNS

	Root      string // /var/lib/kubelet
	LogRoot   string // /var/log/pods
	LogLinks  string // /var/log/containers; empty for none
	HostsFile string // the node's own, for pods on its network: /etc/hosts

	AppArmor       bool     // the machine has it
	AllowedSysctls []string // besides the safe ones; "kernel.msg*" is a family

	PodsUnlimited  bool // together; else they have what the node gives to pods
	Reservations   []cgroups.Reservation
	CPUCFSQuota    bool
	IDsPerPod      int64 // of users of their own that pods want; 0: 65536
	SeccompDefault bool  // containers that name no seccomp profile have the runtime's
	StaticCPUs     bool  // whole CPUs are given to containers that ask for them
	CPUOptions     cpus.Options
	ReservedCPUs   cpuset.CPUSet // which are never; empty: as many as Node.Reserved says
	Topology       Topology
	StaticMemory   bool // containers of Guaranteed pods have memory on NUMA nodes
	ReservedMemory map[int]memory.Amounts
	MinOOMScoreAdj int64 // 0 when the runtime may not lower scores, else -1000

	LimitedSwap bool // burstable containers may swap; else none may
	// SingleProcessOOMKill has only one process of a container end when its memory runs out. Nil is what suits the
	// cgroups: with version 2 all end; with version 1 that cannot be had.
	SingleProcessOOMKill *bool
	FailCgroupV1         bool // there is no node without cgroup v2

	MaxBackOff time.Duration // the longest wait before a failed container is started again; 0: five minutes

	LogMaxSize  int64         // bytes, 10 MiB
	LogMaxFiles int           // 5
	LogPeriod   time.Duration // between looks at their sizes, 10 s

	// EventsPerSecond are sent, and EventsAtOnce; 0 for any number. More of them wait.
	EventsPerSecond, EventsAtOnce int32

	ImageGC images.GCConfig
	Images  images.Config

	// Eviction is when pods are ended for the node's sake; nothing runs short without thresholds. Root is set here.
	Eviction eviction.Config
	// Shutdown is how long pods have when the machine is shut down.
	Shutdown shutdown.Config
}

// Topology says how near to each other the CPUs and devices of a container, or of a pod, have to be.
type Topology struct {
	Policy numa.Policy
	Scope  string
	numa.Options
}

// Volumes makes the volumes of pods. SetUp may be called at each sync, and has made all of them when it returns nil.
type Volumes interface {
	SetUp(ctx context.Context, pod *v1.Pod) error
	Mounts(ctx context.Context, pod *v1.Pod, c *v1.Container, podIPs []string) ([]*runtimeapi.Mount, error)
	Devices(ctx context.Context, pod *v1.Pod, c *v1.Container) ([]*runtimeapi.Device, error)
	TearDown(ctx context.Context, podUID types.UID) error
	Orphans() []types.UID
	// Images are the IDs of those that are volumes.
	Images() []string
}

// Env makes the environment of containers.
type Env interface {
	Environ(ctx context.Context, pod *v1.Pod, c *v1.Container, podIP string, podIPs []string) ([]*runtimeapi.KeyValue, error)
}

// Deps are what the kubelet works with.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory // of Pods (all, or of this node) and Nodes
	Runtime   runtimeapi.RuntimeServiceClient
	Images    runtimeapi.ImageServiceClient
	Volumes   Volumes
	Env       Env
	// Static pods; nil: there are none.
	Static StaticPods
	// Metrics are counted there; nil: nobody looks at them.
	Metrics *metrics.Metrics
	// Recorder of events; nil: events are sent through Client.
	Recorder record.EventRecorder
	// OnPodCIDR is told the addresses that the node may give to pods, once they are known and when they change. May be nil.
	OnPodCIDR func(cidrs []string)
	// LowLevelRuntime names the program that makes the containers of the runtime, and its version. May be nil.
	LowLevelRuntime func(context.Context) (name, version string, err error)
	// VolumesInUse tells which attachable volumes pods use. May be nil.
	VolumesInUse func() ([]v1.UniqueVolumeName, []v1.AttachedVolume)
	// ClockJumps calls jumped whenever the clock was set, until ctx ends. Pods that wait for a time are then looked at: their tokens
	// may have expired, their back-offs and deadlines be over. May be nil.
	ClockJumps func(ctx context.Context, jumped func()) error
	// SystemOOMs calls killed whenever the machine has run out of memory, until ctx ends. May be nil.
	SystemOOMs func(ctx context.Context, killed func(oom.Kill)) error
}

// Kubelet is the node's agent. Make it with New and start it with Run.
type Kubelet struct {
	cfg     Config
	client  kubernetes.Interface
	cri     runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	volumes Volumes
	env     Env
	metrics *metrics.Metrics
	events  record.EventRecorder

	broadcaster record.EventBroadcaster // nil when the events go elsewhere
	agent       *node.Agent
	tree        *cgroups.Tree
	runtime     *containers.Runtime
	grants      *allocation.Store
	users       *userns.Ranges
	status      *status.Manager
	pods        *podsapi.Server
	prober      *probe.Prober
	startup     *startup.Tracker
	puller      *images.Puller
	imageGC     *images.Collector
	evictor     *eviction.Manager
	devices     *devices.Manager
	claims      *dra.Manager
	shutdown    *shutdown.Manager
	cpus        *cpus.Manager   // nil: containers have no CPUs of their own
	memory      *memory.Manager // nil: containers have memory of any node
	nodes       numa.Nodes      // of the machine; set by Run if anything has to be near something, and there is more than one place
	distances   numa.Distances  // between them, if they matter
	statics     *statics
	synced      []cache.InformerSynced
	onPodCIDR   func([]string)
	clockJumps  func(ctx context.Context, jumped func()) error
	systemOOMs  func(ctx context.Context, killed func(oom.Kill)) error
	lowLevel    func(context.Context) (name, version string, err error)
	runtimeName string // set by Run before any pod is looked at
	runtimeIs   string // its version, likewise

	wg sync.WaitGroup // workers and clean-ups

	mu      sync.Mutex
	ctx     context.Context       // guarded by mu: that of Run; nil before, and nothing is started then
	workers map[types.UID]*worker // guarded by mu
	orphans map[types.UID]bool    // guarded by mu: being cleaned up
	cidrs   []string              // guarded by mu: last told to onPodCIDR

	admission sync.Mutex // one admission at a time: each counts those before it
}

// New makes a Kubelet and registers its handlers on the informers. It touches nothing on the machine.
func New(cfg Config, deps Deps) (*Kubelet, error) {
	k := &Kubelet{
		cfg: cfg, client: deps.Client, cri: deps.Runtime, images: deps.Images, volumes: deps.Volumes, env: deps.Env, onPodCIDR: deps.OnPodCIDR, lowLevel: deps.LowLevelRuntime,
		clockJumps: deps.ClockJumps, systemOOMs: deps.SystemOOMs, metrics: deps.Metrics, events: deps.Recorder, workers: map[types.UID]*worker{}, orphans: map[types.UID]bool{},
	}
	if k.metrics == nil {
		k.metrics = metrics.New(cfg.Node.Name)
	}
	if k.events == nil {
		k.broadcaster = record.NewBroadcaster()
		k.events = k.broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.Node.Name})
	}
	var err error
	k.agent, err = node.New(cfg.Node, deps.Client, deps.Runtime, deps.Images, k.events, deps.VolumesInUse, k.wakeAll)
	if err != nil {
		return nil, err
	}
	k.grants = allocation.New(filepath.Join(cfg.Root, "pods"))
	k.users = userns.New(filepath.Join(cfg.Root, "pods"), cfg.Node.MaxPods, cmp.Or(cfg.IDsPerPod, userns.Length))
	k.prober = probe.New(execer{deps.Runtime}, k.events, k.metrics, k.wake)
	machine := k.agent.Machine()
	cfg.Cgroups.HugePageSizes = machine.HugePageNames()
	cfg.Cgroups.WithoutQuota = func(pod *v1.Pod) bool { return !cfg.CPUCFSQuota || k.cpus.Has(pod.UID) }
	if k.tree, err = cgroups.New(cfg.Cgroups); err != nil {
		return nil, err
	}
	if err := k.checkCgroups(); err != nil {
		return nil, err
	}
	k.startup = startup.New(k.metrics)
	cfg.Images.Began, cfg.Images.Got = k.startup.Pulling, k.startup.Pulled
	cfg.Images.Pulled = func(bytes uint64, took time.Duration) {
		k.metrics.ImagePull.WithLabelValues(metrics.ImageSize(bytes)).Observe(took.Seconds())
	}
	cfg.ImageGC.Removed = func(reason string) { k.metrics.ImagesRemoved.WithLabelValues(reason).Inc() }
	k.puller = images.NewPuller(cfg.Images, deps.Images, secrets{deps.Client}, k.events)
	allocatable := cfg.Node.Allocatable(machine, false)
	k.runtime = containers.New(containers.Config{
		LogRoot: cfg.LogRoot, ContainerLogLinks: cfg.LogLinks, PodRoot: filepath.Join(cfg.Root, "pods"),
		SeccompRoot: filepath.Join(cfg.Root, "seccomp"), SeccompDefault: cfg.SeccompDefault, CPUCFSQuota: cfg.CPUCFSQuota, CPUCFSPeriod: cfg.Cgroups.CPUPeriod,
		MinOOMScoreAdj: cfg.MinOOMScoreAdj, MemoryCapacity: machine.Memory, HugePageSizes: machine.HugePageNames(),
		Swap:      containers.Swap{Controlled: k.tree.LimitsSwap(), Unified: k.tree.Unified(), Limited: cfg.LimitedSwap, Capacity: machine.Swap},
		MemoryQoS: cfg.Cgroups.MemoryQoS, AllocatableMemory: allocatable.Memory().Value(),
		MaxBackOff: cfg.MaxBackOff, WholeOOMKill: k.tree.Unified() && !ptr.Deref(cfg.SingleProcessOOMKill, false),
	}, deps.Runtime, k.puller, host{k}, k.prober, k.grants, k.events, k.metrics)
	k.imageGC = images.NewCollector(cfg.ImageGC, deps.Images, deps.Runtime, deps.Volumes.Images, k.puller.Forget)
	cfg.Eviction.Root = cfg.Root
	k.evictor = eviction.New(cfg.Eviction, evictable{k}, k.agent.Ref(), k.events)
	k.agent.Pressure = k.evictor.Pressure
	k.status = status.NewManager(deps.Client, deps.Informers.Core().V1().Pods().Lister())
	k.pods = podsapi.New(cfg.Root, podsapi.Node{Pods: k.Pods, Pod: k.PodByUID, Decided: k.decidedStatus, Synced: k.hasSynced}, k.metrics)
	k.status.Ended, k.status.Changed = k.metrics.EndedContainers, k.pods.Changed
	k.status.Written = func(took time.Duration) { k.metrics.StatusWritten.Observe(took.Seconds()) }
	k.devices = devices.New(cfg.Root, k.metrics, k.agent.Poke, k.wake)
	k.agent.Devices = k.devices.Resources
	k.shutdown = shutdown.New(cfg.Shutdown, shutdown.Systemd{}, ending{k})
	k.agent.ShuttingDown = k.shutdown.Begun
	k.claims = dra.New(deps.Client, cfg.Node.Name, cfg.Root, k.metrics, k.wakeAll, k.wake)
	k.statics = newStatics(deps.Static, deps.Client, deps.Informers.Core().V1().Pods().Lister())
	return k, k.handlers(deps.Informers)
}

// checkCgroups refuses what their version cannot do.
func (k *Kubelet) checkCgroups() error {
	if k.tree.Unified() {
		k.metrics.CgroupVersion.Set(2)
		return nil
	}
	k.metrics.CgroupVersion.Set(1)
	switch {
	case k.cfg.FailCgroupV1:
		return errors.New("kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release")
	case k.cfg.Cgroups.MemoryQoS != (cgroups.MemoryQoS{}):
		return errors.New("memoryReservationPolicy TieredReservation and memoryThrottlingFactor need cgroup v2")
	case !ptr.Deref(k.cfg.SingleProcessOOMKill, true):
		return errors.New("singleProcessOOMKill must not be explicitly set to false when using cgroup v1")
	}
	return nil
}

// handlers subscribes to the pods and the node that are ours.
func (k *Kubelet) handlers(factory informers.SharedInformerFactory) error {
	pods, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			pod := podOf(obj)
			return pod != nil && pod.Spec.NodeName == k.cfg.Node.Name
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { k.observed(podOf(obj)) },
			UpdateFunc: func(_, obj any) { k.observed(podOf(obj)) },
			DeleteFunc: func(obj any) {
				pod := podOf(obj)
				k.startup.Forget(pod.UID)
				k.inAPI(pod, k.podDeleted)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("watch Pods: %w", err)
	}
	nodes, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(obj any) bool {
			n, ok := obj.(*v1.Node)
			return ok && n.Name == k.cfg.Node.Name
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { k.nodeChanged(obj.(*v1.Node)) },
			UpdateFunc: func(_, obj any) { k.nodeChanged(obj.(*v1.Node)) },
		},
	})
	if err != nil {
		return fmt.Errorf("watch Nodes: %w", err)
	}
	k.synced = []cache.InformerSynced{pods.HasSynced, nodes.HasSynced}
	return nil
}

// observed takes a pod as the API shows it now.
func (k *Kubelet) observed(pod *v1.Pod) {
	k.startup.Observed(pod, time.Now())
	k.inAPI(pod, k.podChanged)
}

// inAPI takes news of a pod that the API has: for a mirror, the pod that it shows is another.
func (k *Kubelet) inAPI(pod *v1.Pod, took func(*v1.Pod)) {
	if isMirror(pod) {
		took = k.mirrorChanged
	}
	took(pod)
}

func podOf(obj any) *v1.Pod {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	pod, _ := obj.(*v1.Pod)
	return pod
}

func (k *Kubelet) nodeChanged(n *v1.Node) {
	k.agent.Observe(n)
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	k.mu.Lock()
	news := len(cidrs) > 0 && !slices.Equal(cidrs, k.cidrs)
	if news {
		k.cidrs = slices.Clone(cidrs)
	}
	k.mu.Unlock()
	if news && k.onPodCIDR != nil {
		k.onPodCIDR(cidrs)
		k.agent.Poke()
	}
}

// Poke asks for a look at the node's status now: call it when the network has become ready.
func (k *Kubelet) Poke() { k.agent.Poke() }

// Run keeps the node and its pods until ctx ends. Containers go on running after that.
func (k *Kubelet) Run(ctx context.Context) error {
	if err := k.prepare(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if k.broadcaster != nil {
		k.broadcaster.StartRecordingToSink(k.sink(ctx))
		defer k.broadcaster.Shutdown()
	}
	if !k.cfg.PodsUnlimited {
		k.events.Event(k.agent.Ref(), v1.EventTypeNormal, enforced, "Updated Node Allocatable limit across pods")
	}
	if err := k.enforceReservations(); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	k.prober.Start(ctx)
	defer k.prober.Wait()
	defer k.claims.Close()
	group.Go(func() error { k.warnOfEscapes(ctx); return nil })
	group.Go(func() error { return k.agent.Run(ctx) })
	group.Go(func() error { return k.devices.Run(ctx) })
	group.Go(func() error { return k.claims.Run(ctx) })
	group.Go(func() error {
		return podresources.New(k.cfg.Root, podresources.Node{
			Pods: func() []*v1.Pod { return k.active() }, Devices: k.devices, Claims: k.claims, CPUs: func() *cpus.Manager { return k.cpus }, Memory: func() *memory.Manager { return k.memory },
		}, k.metrics).Run(ctx)
	})
	group.Go(func() error { return k.pods.Run(ctx) })
	group.Go(func() error { return k.status.Run(ctx) })
	group.Go(func() error { return k.runPods(ctx) })
	group.Go(func() error { k.followClock(ctx); return nil })
	group.Go(func() error { k.followOOMs(ctx); return nil })
	return group.Wait()
}

func (k *Kubelet) followClock(ctx context.Context) {
	if k.clockJumps == nil {
		return
	}
	if err := k.clockJumps(ctx, k.wakeAll); err != nil { // timers do what they can
		klog.FromContext(ctx).Error(err, "The kubelet will not hear when the clock is set")
	}
}

// followOOMs tells the operator whenever the machine has run out of memory.
func (k *Kubelet) followOOMs(ctx context.Context) {
	if k.systemOOMs == nil {
		return
	}
	err := k.systemOOMs(ctx, func(kill oom.Kill) {
		k.events.Event(k.agent.Ref(), v1.EventTypeWarning, "SystemOOM", kill.Message())
	})
	if err != nil { // as where the kernel's log is not for everybody
		klog.FromContext(ctx).Error(err, "The kubelet will not hear when the machine runs out of memory")
	}
}

// prepare makes what all pods need: the runtime's name, folders and the cgroups that hold them.
func (k *Kubelet) prepare(ctx context.Context) error {
	version, err := k.cri.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("ask container runtime for its version: %w", err)
	}
	k.runtimeName, k.runtimeIs = version.GetRuntimeName(), version.GetRuntimeVersion()
	for _, dir := range []string{filepath.Join(k.cfg.Root, "pods"), filepath.Join(k.cfg.Root, "plugins"), filepath.Join(k.cfg.Root, "seccomp"), k.cfg.LogRoot, k.cfg.LogLinks} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create folder: %w", err)
		}
	}
	if err := errors.Join(k.devices.Load(), k.claims.Load()); err != nil {
		return err
	}
	if err := errors.Join(k.reserveCPUs(), k.reserveMemory(), k.readTopology()); err != nil {
		return err
	}
	capacity := k.cfg.Node.Allocatable(k.agent.Machine(), false)
	limits := cgroups.Limits{CPUShares: cgroups.Shares(capacity.Cpu().MilliValue()), MemoryBytes: capacity.Memory().Value(), Pids: k.podPids(), HugePages: cgroups.HugePages(capacity)}
	if k.cfg.PodsUnlimited {
		limits = cgroups.Limits{CPUShares: limits.CPUShares, MemoryBytes: cgroups.Unlimited, Pids: cgroups.Unlimited}
	}
	return k.tree.EnsureRoot(limits)
}

// warnOfEscapes tells the operator when containers are known to be able to leave what they are in.
func (k *Kubelet) warnOfEscapes(ctx context.Context) {
	warnings := advisories.Check(k.runtimeName, k.runtimeIs)
	if k.lowLevel != nil {
		name, version, err := k.lowLevel(ctx)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Looking whether the container runtime has known escapes")
		}
		warnings = append(warnings, advisories.Check(name, version)...)
	}
	for _, w := range warnings {
		klog.FromContext(ctx).Error(nil, "The container runtime is not safe: "+w)
		k.events.Event(k.agent.Ref(), v1.EventTypeWarning, "KnownEscapes", w)
	}
}

// podPids is how many processes all pods may have together, if some are reserved for others.
func (k *Kubelet) podPids() int64 {
	reserved := k.cfg.Node.Reserved["pid"]
	if reserved.IsZero() {
		return 0
	}
	return max(eviction.PIDs()-reserved.Value(), 1)
}

// stopPatience is how long workers may take to end what they are doing.
const stopPatience = 15 * time.Second

// awaitWorkers waits for the workers and clean-ups to end, but for those that the kernel holds: a volume whose server is away
// would keep the process from ever ending.
func (k *Kubelet) awaitWorkers() {
	ended := make(chan struct{})
	go func() { k.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(stopPatience):
		klog.Background().Info("Some pods are held by the kernel, by a volume that does not answer; they are left as they are")
	}
}

// runPods starts the workers once all pods are known, so that nothing is taken for an orphan too early.
func (k *Kubelet) runPods(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), k.synced...) {
		return nil // ctx ended
	}
	k.statics.read(ctx)
	for _, pod := range k.statics.all() {
		k.startStatic(pod) // before anything that runs is taken for an orphan
	}
	k.mu.Lock()
	k.ctx = ctx
	for _, w := range k.workers {
		k.startLocked(w)
	}
	k.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.runStatics(ctx) })
	group.Go(func() error { return k.watchContainers(ctx) })
	group.Go(func() error { return k.keepHouse(ctx) })
	group.Go(func() error { return k.evictor.Run(ctx) })
	group.Go(func() error { return k.shutdown.Run(ctx) })
	err := group.Wait()
	k.awaitWorkers()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
