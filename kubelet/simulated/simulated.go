// SPDX-License-Identifier: Apache-2.0

// Package simulated keeps nodes that exist in the API only: they accept pods and report them Running and Ready, so that
// schedulers and controllers can be tried at a scale that no machine has.
//
// Read pod.go first: a pod as a runtime without processes has it, moved on by the real kubelet's plan (kubelet/containers) and
// reported by its status code (kubelet/status). behaviour.go is what annotations can say about a pod, template.go makes
// the Node objects, and this file is the fleet: one queue for all pods and nodes, and a pool of goroutines that
// empties it.
//
// A node is registered once. One that somebody deletes stays away until the next start; one with the annotation
// simulated.skiff.io/lost stops its heartbeat and leaves its pods alone, as a broken machine does. Nothing here
// records events, runs probes or keeps pods off a node that is full: whoever binds them is believed.
package simulated

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/status"
)

// LostAnnotation on a Node, whatever its value, makes it a lost one.
const LostAnnotation = "simulated.skiff.io/lost"

// Config says how many nodes there are and how they behave.
type Config struct {
	Nodes int
	// Template makes the Node with the number i; nil means DefaultTemplate.
	Template Template
	// StartAfter is how long pods take to start, unless they say so themselves.
	StartAfter time.Duration
	// Heartbeat is how often each node renews its Lease; 20 s if zero. Other components take a node for lost after 50 s.
	Heartbeat time.Duration
	// Workers is how many goroutines there are for all pods and nodes together; 16 if zero. As many write statuses.
	Workers int
}

// addresses are of the range for benchmarks (RFC 2544), which nobody routes: the first half is the pods', the other the nodes'.
var addresses = netip.MustParsePrefix("198.18.0.0/15")

// Fleet is all the nodes.
type Fleet struct {
	cfg     Config
	client  kubernetes.Interface
	factory informers.SharedInformerFactory
	status  *status.Manager
	queue   workqueue.TypedDelayingInterface[key]
	nodes   []*member
	byName  map[string]*member
	synced  []cache.DoneChecker
	lastIP  atomic.Uint32

	mu   sync.Mutex
	pods map[types.UID]*entry // guarded by mu
}

// key is something to look at: a pod, or if uid is empty, a node.
type key struct {
	uid  types.UID
	node int
}

// entry is what the fleet knows of a pod. The queue sees to it that one goroutine at a time works on state.
type entry struct {
	node  *member
	pod   atomic.Pointer[v1.Pod] // the newest version
	state *state
}

// New makes a fleet and registers its handlers on the informers of pods and nodes.
func New(cfg Config, client kubernetes.Interface, factory informers.SharedInformerFactory) (*Fleet, error) {
	if cfg.Template == nil {
		cfg.Template = DefaultTemplate()
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 20 * time.Second
	}
	if cfg.Workers == 0 {
		cfg.Workers = 16
	}
	f := &Fleet{
		cfg: cfg, client: client, factory: factory, byName: make(map[string]*member, cfg.Nodes), pods: make(map[types.UID]*entry),
		queue:  workqueue.NewTypedDelayingQueue[key](),
		status: status.NewManager(client, factory.Core().V1().Pods().Lister()),
	}
	f.status.Writers = cfg.Workers
	for i := range cfg.Nodes {
		n, err := newMember(cfg.Template, i)
		if err != nil {
			return nil, err
		}
		if f.byName[n.name] != nil {
			return nil, fmt.Errorf("simulated nodes: the template names both %d and %d %q (use {{.Index}} in its name)", f.byName[n.name].index, i, n.name)
		}
		f.nodes = append(f.nodes, n)
		f.byName[n.name] = n
	}
	return f, f.watch()
}

func (f *Fleet) watch() error {
	pods, err := f.factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { f.podChanged(obj.(*v1.Pod)) },
		UpdateFunc: func(_, obj any) { f.podChanged(obj.(*v1.Pod)) },
		DeleteFunc: f.podDeleted,
	})
	if err != nil {
		return fmt.Errorf("watch Pods: %w", err)
	}
	// Needed for its lister; the handler is there to hear of a node that comes back from being lost.
	nodes, err := f.factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(old, obj any) { f.nodeChanged(old.(*v1.Node), obj.(*v1.Node)) },
	})
	if err != nil {
		return fmt.Errorf("watch Nodes: %w", err)
	}
	f.synced = []cache.DoneChecker{pods.HasSyncedChecker(), nodes.HasSyncedChecker()}
	return nil
}

func (f *Fleet) podChanged(pod *v1.Pod) {
	n := f.byName[pod.Spec.NodeName]
	if n == nil {
		return
	}
	f.mu.Lock()
	e := f.pods[pod.UID]
	if e == nil {
		e = &entry{node: n}
		f.pods[pod.UID] = e
	}
	f.mu.Unlock()
	old := e.pod.Swap(pod)
	if old == nil || old.Generation != pod.Generation || old.DeletionTimestamp != pod.DeletionTimestamp {
		f.queue.Add(key{uid: pod.UID})
		return
	}
	f.status.Reconcile(pod.UID) // most often it is the echo of our own write
}

func (f *Fleet) podDeleted(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	pod, ok := obj.(*v1.Pod)
	if !ok || f.byName[pod.Spec.NodeName] == nil {
		return
	}
	f.mu.Lock()
	delete(f.pods, pod.UID)
	f.mu.Unlock()
	f.status.Forget(pod.UID)
}

func (f *Fleet) nodeChanged(old, now *v1.Node) {
	n := f.byName[now.Name]
	if n == nil || lost(now) || !lost(old) {
		return
	}
	f.queue.Add(key{node: n.index})
	f.mu.Lock()
	defer f.mu.Unlock()
	for uid, e := range f.pods {
		if e.node == n {
			f.queue.Add(key{uid: uid})
		}
	}
}

func lost(n *v1.Node) bool {
	_, yes := n.Annotations[LostAnnotation]
	return yes
}

// Run keeps the nodes until ctx ends. The informers must be started by the caller.
func (f *Fleet) Run(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", f.synced...) {
		return nil
	}
	f.skipUsed()
	for i := range f.nodes {
		f.queue.Add(key{node: i})
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.status.Run(ctx) }) // ends with ctx, never with an error
	for range f.cfg.Workers {
		wg.Go(func() { f.work(ctx) })
	}
	<-ctx.Done()
	f.queue.ShutDown()
	wg.Wait()
	return nil
}

func (f *Fleet) work(ctx context.Context) {
	for {
		k, quit := f.queue.Get()
		if quit {
			return
		}
		var again time.Duration
		if k.uid != "" {
			again = f.syncPod(k.uid, time.Now())
		} else {
			again = f.syncNode(ctx, f.nodes[k.node])
		}
		f.queue.Done(k)
		if again > 0 {
			f.queue.AddAfter(k, again)
		}
	}
}

// syncPod moves a pod on, and says when something is to happen next; 0 if nothing is.
func (f *Fleet) syncPod(uid types.UID, now time.Time) time.Duration {
	f.mu.Lock()
	e := f.pods[uid]
	f.mu.Unlock()
	if e == nil || f.isLost(e.node) {
		return 0
	}
	pod := e.pod.Load()
	if e.state == nil {
		e.state = newState(pod, f.newIP, now)
	}
	old, known := f.status.Get(uid)
	if !known {
		old = pod.Status
	}
	is, next := e.state.step(pod, &old, behaviourOf(pod, f.cfg.StartAfter), now)
	is.HostIP = e.node.ip
	is.HostIPs = []v1.HostIP{{IP: e.node.ip}}
	f.status.Set(pod, is)
	if pod.DeletionTimestamp != nil && e.state.over {
		f.status.Removed(uid)
	}
	if next.IsZero() {
		return 0
	}
	return max(next.Sub(now), time.Millisecond)
}

func (f *Fleet) isLost(n *member) bool {
	is, err := f.factory.Core().V1().Nodes().Lister().Get(n.name)
	return err == nil && lost(is)
}

// newIP returns an address for a pod. They repeat after 65,534 pods.
func (f *Fleet) newIP() string { return address(f.lastIP.Add(1) % (1<<16 - 2)) }

// skipUsed has new addresses come after those that pods have already, from an earlier run or another server's.
func (f *Fleet) skipUsed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.pods {
		if n := number(e.pod.Load().Status.PodIP); n > f.lastIP.Load() {
			f.lastIP.Store(n)
		}
	}
}

// number is the n of a pod's address; 0 if it is none of these.
func number(ip string) uint32 {
	a, err := netip.ParseAddr(ip)
	if err != nil || !addresses.Contains(a) || a.As4()[1] != addresses.Addr().As4()[1] {
		return 0
	}
	b := a.As4()
	return max(1, uint32(b[2])<<8+uint32(b[3])) - 1
}

// address is the n-th after the first of all.
func address(n uint32) string {
	b := addresses.Addr().As4()
	n++
	return netip.AddrFrom4([4]byte{b[0], b[1] + byte(n>>16), byte(n >> 8), byte(n)}).String()
}

// syncNode registers a node, and from then on renews its lease.
func (f *Fleet) syncNode(ctx context.Context, n *member) time.Duration {
	if n.object == nil {
		err := n.register(ctx, f.client)
		switch {
		case ctx.Err() != nil:
			return 0 // there may be no Node to renew the lease of
		case err != nil:
			klog.FromContext(ctx).Error(err, "Registering a simulated node; it is tried again")
			return time.Second
		}
	} else if is, err := f.factory.Core().V1().Nodes().Lister().Get(n.name); err != nil || lost(is) {
		return 0 // until it is no longer lost
	}
	if err := n.renew(ctx, f.client); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Renewing the lease of a simulated node; it is tried again")
		return time.Second
	}
	return f.cfg.Heartbeat
}
