// SPDX-License-Identifier: Apache-2.0

// Package eviction keeps a node alive that runs out of memory, disk or process IDs: it says so in the node's conditions,
// frees what nobody needs, and then ends pods one by one, the most expendable first.
//
// signals.go reads what is left; rank.go and local.go decide without I/O who goes first, or used more of the disk than it
// may, and what is said about it; reserve.go keeps back some disk for when there is none left; this file has the loop.
// It looks every ten seconds, and at once when the kernel reports that processes wait for memory (PSI).
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
package eviction

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"
)

// Signal is something that can run out, named as the operator knows it.
type Signal string

// The signals.
const (
	MemoryAvailable   Signal = "memory.available"
	PodsMemory        Signal = "allocatableMemory.available" // of what all pods may have together
	NodeFSAvailable   Signal = "nodefs.available"
	NodeFSInodesFree  Signal = "nodefs.inodesFree"
	ImageFSAvailable  Signal = "imagefs.available"
	ImageFSInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Threshold is the least that must be left: a quantity, or a percentage of all there is.
type Threshold struct {
	Quantity int64
	Percent  int64
}

// Config is what the operator chose.
type Config struct {
	Hard       map[Signal]Threshold
	Soft       map[Signal]Threshold
	SoftGrace  map[Signal]time.Duration // how long a soft threshold may be met
	MaxGrace   int64                    // seconds that pods have to end when a soft one was; less if they want less
	Reclaim    map[Signal]Threshold     // how much more than its threshold must be left for a signal to be over
	Transition time.Duration            // a condition stays that long after it was last true; 5 min
	Root       string                   // its file system is nodefs
	Reserve    string                   // a file beside the container runtime's data that is given up when the disk is full; empty: none
}

// Usage is what one pod uses.
type Usage struct {
	Memory, Disk, Inodes, Processes int64
	Containers                      map[string]ContainerUsage
	Volumes                         map[string]int64 // disk that emptyDirs use, by name
}

// ContainerUsage is what one container uses.
type ContainerUsage struct{ Memory, Disk int64 }

// Verdict is why a pod is evicted.
type Verdict struct {
	Signal      Signal
	Message     string
	Annotations map[string]string // of the event
	Grace       int64             // seconds that its containers have to end; less if the pod wants less
}

// hardGrace is what an evicted pod's containers have to end when the node cannot wait.
const hardGrace = 1

// Node is what the manager works on.
type Node interface {
	// Pods that run, each with what it was granted.
	Pods() []*v1.Pod
	Usage(ctx context.Context, pod *v1.Pod) (Usage, error)
	// ImageFS is a folder on the file system of images; empty if that is nodefs.
	ImageFS(ctx context.Context) string
	// FreeDisk removes dead containers and images that nobody needs.
	FreeDisk(ctx context.Context) error
	// Evict ends a pod. The channel is closed when nothing of it is left.
	Evict(uid types.UID, v Verdict) <-chan struct{}
	// PressureChanged is called when Pressure has.
	PressureChanged()
	// PodsMemory is what is left of the memory that all pods may have together; false if that has no limit.
	PodsMemory() (Observation, bool)
}

// Manager watches over a node.
type Manager struct {
	cfg    Config
	node   Node
	ref    *v1.ObjectReference
	events record.EventRecorder

	reserve reserve
	since   map[Signal]time.Time // when a soft threshold was first met; only Run touches it
	short   map[Signal]bool      // what ran short when last looked; only Run touches it

	mu   sync.Mutex
	last map[v1.NodeConditionType]time.Time // guarded by mu: when a condition was last true
}

// New makes a Manager. What counts for the machine's memory counts for that of all pods too: better one goes than that the
// kernel ends any.
func New(cfg Config, node Node, ref *v1.ObjectReference, events record.EventRecorder) *Manager {
	cfg.Hard, cfg.Reclaim = forPods(cfg.Hard), forPods(cfg.Reclaim)
	return &Manager{cfg: cfg, node: node, ref: ref, events: events, reserve: reserve{cfg.Reserve}, since: map[Signal]time.Time{}, short: map[Signal]bool{}, last: map[v1.NodeConditionType]time.Time{}}
}

func forPods(of map[Signal]Threshold) map[Signal]Threshold {
	t, set := of[MemoryAvailable]
	if _, own := of[PodsMemory]; !set || own {
		return of
	}
	with := maps.Clone(of)
	with[PodsMemory] = t
	return with
}

// The rhythm, as upstream's.
const (
	period         = 10 * time.Second
	cleanUpTimeout = 30 * time.Second // how long one eviction may take before the next is considered
	endPatience    = 4 * time.Second  // how much longer than its grace a pod's processes can take to end
	stallPause     = time.Second      // between two looks that the kernel asked for
)

// Run looks after the node until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	stalls := watchMemory(ctx)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		m.look(ctx)
		select {
		case <-ticker.C:
		case <-stalls:
			pause(ctx, stallPause)
		case <-ctx.Done():
			return nil
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Pressure says which conditions the node has.
func (m *Manager) Pressure() []v1.NodeConditionType {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []v1.NodeConditionType
	for t, last := range m.last {
		if time.Since(last) < m.cfg.Transition {
			all = append(all, t)
		}
	}
	slices.Sort(all)
	return all
}

// look compares what is left with the thresholds, and evicts at most one pod.
func (m *Manager) look(ctx context.Context) {
	logger := klog.FromContext(ctx)
	was := m.Pressure()
	seen := m.observe(ctx)
	hard, soft := m.met(m.cfg.Hard, seen), m.met(m.cfg.Soft, seen)
	m.mu.Lock()
	for _, s := range slices.Concat(hard, soft) {
		m.last[conditions[s]] = time.Now()
	}
	m.mu.Unlock()
	if !slices.Equal(was, m.Pressure()) {
		m.node.PressureChanged()
	}
	m.evictOverDisk(ctx)
	signal, threshold, grace, short := m.due(hard, soft, time.Now())
	if !short {
		m.reserve.keep(ctx)
		return
	}
	m.events.Eventf(m.ref, v1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", resources[signal])
	logger.Info("The node runs short; reclaiming", "signal", signal, "available", seen[signal].Available, "capacity", seen[signal].Capacity)
	if isDisk(signal) {
		if err := m.node.FreeDisk(ctx); err != nil {
			logger.Error(err, "Freeing disk space")
		}
		seen = m.observe(ctx)
		if !slices.Contains(m.met(map[Signal]Threshold{signal: threshold}, seen), signal) {
			return
		}
	}
	if !m.evict(ctx, signal, threshold, seen[signal], grace) {
		m.reserve.keep(ctx)
	}
}

func (m *Manager) observe(ctx context.Context) map[Signal]Observation {
	seen := observe(m.cfg.Root, m.node.ImageFS(ctx))
	if pods, limited := m.node.PodsMemory(); limited {
		seen[PodsMemory] = pods
	}
	return seen
}

// met lists the signals that are below their threshold, the most urgent first. One that was goes on being until as much
// more is left as is to be reclaimed.
func (m *Manager) met(thresholds map[Signal]Threshold, seen map[Signal]Observation) []Signal {
	short := met(thresholds, seen)
	for s, t := range thresholds {
		reclaim, set := m.cfg.Reclaim[s]
		o, known := seen[s]
		if set && known && m.short[s] && !slices.Contains(short, s) && o.Available < t.Of(o.Capacity)+reclaim.Of(o.Capacity) {
			short = append(short, s)
		}
	}
	slices.SortFunc(short, func(a, b Signal) int { return cmp.Compare(slices.Index(order, a), slices.Index(order, b)) })
	return short
}

// due is the signal for which a pod has to go now: one below its hard threshold, or long enough below its soft one.
func (m *Manager) due(hard, soft []Signal, now time.Time) (s Signal, t Threshold, grace int64, is bool) {
	for s := range m.since {
		if !slices.Contains(soft, s) {
			delete(m.since, s)
		}
	}
	clear(m.short)
	for _, s := range slices.Concat(hard, soft) {
		m.short[s] = true
	}
	for _, s := range soft {
		if m.since[s].IsZero() {
			m.since[s] = now
		}
	}
	for _, s := range order {
		if slices.Contains(hard, s) {
			return s, m.cfg.Hard[s], hardGrace, true
		}
		if slices.Contains(soft, s) && now.Sub(m.since[s]) >= m.cfg.SoftGrace[s] {
			return s, m.cfg.Soft[s], m.cfg.MaxGrace, true
		}
	}
	return "", t, 0, false
}

// evictOverDisk ends pods that use more of the node's disk than they may. Only those that have a limit are looked at.
func (m *Manager) evictOverDisk(ctx context.Context) {
	for _, pod := range m.node.Pods() {
		if !limitsDisk(pod) || Critical(pod) {
			continue
		}
		u, err := m.node.Usage(ctx, pod)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Finding out what a pod uses", "pod", klog.KObj(pod))
			continue
		}
		if v, over := overDisk(pod, &u); over {
			m.end(ctx, pod, v)
		}
	}
}

// end evicts a pod and waits until it is gone.
func (m *Manager) end(ctx context.Context, pod *v1.Pod, v Verdict) {
	klog.FromContext(ctx).Info("Evicting pod", "pod", klog.KObj(pod), "message", v.Message)
	m.events.AnnotatedEventf(pod, v.Annotations, v1.EventTypeWarning, Reason, "%s", v.Message)
	gone := m.node.Evict(pod.UID, v)
	timer, ended := time.NewTimer(cleanUpTimeout), time.NewTimer(time.Duration(v.Grace)*time.Second+endPatience)
	defer timer.Stop()
	defer ended.Stop()
	for {
		select {
		case <-gone:
		case <-timer.C:
		case <-ctx.Done():
		case <-ended.C: // its processes have: if the runtime cannot note that for want of room, it shall have some
			m.reserve.keep(ctx)
			continue
		}
		return
	}
}

// evict ends the first pod in line and waits until it is gone; false if there is none that may go.
func (m *Manager) evict(ctx context.Context, signal Signal, t Threshold, seen Observation, grace int64) bool {
	pods := m.node.Pods()
	usage := map[types.UID]*Usage{}
	for _, pod := range pods {
		u, err := m.node.Usage(ctx, pod)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Finding out what a pod uses", "pod", klog.KObj(pod))
			continue
		}
		usage[pod.UID] = &u
	}
	rank(pods, usage, signal)
	for _, pod := range pods {
		if Critical(pod) {
			continue
		}
		v := verdict(pod, usage[pod.UID], signal, t, seen)
		v.Grace = grace
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			v.Grace = min(v.Grace, *own)
		}
		m.end(ctx, pod, v)
		return true
	}
	return false
}

// Refuse says why a pod may not start on a node under pressure; empty if it may.
func (m *Manager) Refuse(pod *v1.Pod) string {
	pressure := m.Pressure()
	if len(pressure) == 0 || Critical(pod) {
		return ""
	}
	if len(pressure) == 1 && pressure[0] == v1.NodeMemoryPressure {
		taint := &v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if qos.GetPodQOS(pod) != v1.PodQOSBestEffort || corev1.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, taint, true) {
			return ""
		}
	}
	return nodeCondition(pressure)
}
