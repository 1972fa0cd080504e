// SPDX-License-Identifier: Apache-2.0

// Package startup measures how long pods take from when they were created until everybody can see that all of their containers
// run: in all, and without what is the pod's own doing, pulls of images and init containers.
//
// Reference: https://github.com/kubernetes/community/blob/master/sig-scalability/slos/pod_startup_latency.md
package startup

import (
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Tracker knows the pods that have not started yet. Its methods may be called concurrently.
type Tracker struct {
	metrics *metrics.Metrics

	mu      sync.Mutex
	pods    map[types.UID]*pod // guarded by mu: nil for those that do not count, or no more
	network bool               // guarded by mu: a pod with a network of its own has started
}

// pod is what has taken its time so far.
type pod struct {
	pulling map[string]time.Time // by image: when it was first tried
	pulls   []span               // of the images that are there
	init    time.Duration        // of init containers
}

type span struct{ from, to time.Time }

// New makes a Tracker.
func New(m *metrics.Metrics) *Tracker {
	return &Tracker{metrics: m, pods: map[types.UID]*pod{}}
}

// Observed takes a pod as the API shows it at that time. A pod counts if it is new to this node when it is first seen, and never had
// to wait for a node.
func (t *Tracker) Observed(is *v1.Pod, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, known := t.pods[is.UID]
	switch {
	case !known && is.Status.StartTime.IsZero() && !waited(is):
		t.pods[is.UID] = &pod{pulling: map[string]time.Time{}}
	case p == nil || is.Status.Phase == v1.PodFailed || is.Status.Phase == v1.PodSucceeded || waited(is):
		t.pods[is.UID] = nil
	case started(is):
		t.observeLocked(is, p, at)
		t.pods[is.UID] = nil
	}
}

// observeLocked counts a pod that has started. The caller holds mu.
func (t *Tracker) observeLocked(is *v1.Pod, p *pod, at time.Time) {
	whole := at.Sub(is.CreationTimestamp.Time)
	t.metrics.PodStartTotal.WithLabelValues().Observe(whole.Seconds())
	if stateful(is) {
		return
	}
	own := (whole - together(p.pulls) - p.init).Seconds()
	t.metrics.PodStartSLI.WithLabelValues().Observe(own)
	if !is.Spec.HostNetwork && !t.network {
		t.network = true
		t.metrics.FirstNetworkPodStartSLI.Set(own)
	}
}

// Pulling notes that an image of a pod is being pulled, once more maybe; Pulled that it is there.
func (t *Tracker) Pulling(uid types.UID, image string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[uid]; p != nil && p.pulling[image].IsZero() {
		p.pulling[image] = time.Now()
	}
}

func (t *Tracker) Pulled(uid types.UID, image string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[uid]; p != nil && !p.pulling[image].IsZero() {
		p.pulls = append(p.pulls, span{p.pulling[image], time.Now()})
		delete(p.pulling, image)
	}
}

// Initialized notes for how long a pod's init containers have run so far, all together.
func (t *Tracker) Initialized(uid types.UID, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.pods[uid]; p != nil {
		p.init = took
	}
}

// Forget is called when a pod is gone.
func (t *Tracker) Forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pods, uid)
}

// together is how long any of the spans lasted.
func together(spans []span) (sum time.Duration) {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var end time.Time
	for _, s := range spans {
		if s.from.Before(end) {
			s.from = end
		}
		if s.to.After(s.from) {
			sum, end = sum+s.to.Sub(s.from), s.to
		}
	}
	return sum
}

// waited says that no node could take a pod at once.
func waited(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse
	})
}

// started says that all of a pod's containers run.
func started(pod *v1.Pod) bool {
	return len(pod.Status.ContainerStatuses) > 0 && !slices.ContainsFunc(pod.Status.ContainerStatuses, func(c v1.ContainerStatus) bool {
		return c.State.Running == nil || c.State.Running.StartedAt.IsZero()
	})
}

// stateful says that a pod has volumes that others make, and for which it may have to wait.
func stateful(pod *v1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool {
		return v.Secret == nil && v.ConfigMap == nil && v.DownwardAPI == nil && v.EmptyDir == nil && v.Projected == nil
	})
}
