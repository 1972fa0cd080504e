// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/admit"
	"github.com/skiff-k8s/skiff/kubelet/allocation"
	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// resizing is how far a change of a running pod's resources is: waiting for room, or under way.
type resizing struct {
	pending  *v1.PodCondition
	progress *v1.PodCondition
}

func (r *resizing) conditions() []v1.PodCondition {
	var all []v1.PodCondition
	for _, c := range []*v1.PodCondition{r.pending, r.progress} {
		if c != nil {
			all = append(all, *c)
		}
	}
	return all
}

// What may make room for pods that wait for it, as the metric calls it.
const (
	podUpdated    = "pod_updated" // the one that waits asks for something else
	podResized    = "pod_resized"
	podRemoved    = "pods_removed"
	podTerminated = "pod_terminated"
	byTheWay      = "periodic_retry"
)

// rememberResize goes on where an earlier process stopped.
func (k *Kubelet) rememberResize(w *worker, pod *v1.Pod) {
	for i := range pod.Status.Conditions {
		switch c := pod.Status.Conditions[i]; c.Type {
		case v1.PodResizePending:
			k.setPending(w, pod, &c, "")
		case v1.PodResizeInProgress:
			k.setProgress(w, &c)
		}
	}
}

// setPending notes why a pod does not have what it asks for; nil: it has, or will not, as the resolution says.
func (k *Kubelet) setPending(w *worker, pod *v1.Pod, to *v1.PodCondition, resolution string) {
	bucket := metrics.PriorityBucket(ptr.Deref(pod.Spec.Priority, 0))
	count := func(c *v1.PodCondition, by float64) {
		if c != nil {
			k.metrics.Resizes.Pending.WithLabelValues(strings.ToLower(c.Reason), bucket).Add(by)
		}
	}
	was := w.resize.pending
	count(was, -1)
	count(to, 1)
	if to == nil && was != nil && was.Reason == v1.PodReasonDeferred {
		k.metrics.Resizes.DeferredFor.WithLabelValues(resolution, bucket).Observe(time.Since(was.LastTransitionTime.Time).Seconds())
	}
	w.resize.pending = to
	if to != nil && to.Reason == v1.PodReasonDeferred {
		w.wait(to.LastTransitionTime.Time)
	} else {
		w.wait(time.Time{})
	}
}

// setProgress notes that a pod is being given what it was granted; nil: it has all of it.
func (k *Kubelet) setProgress(w *worker, to *v1.PodCondition) {
	switch {
	case w.resize.progress == nil && to != nil:
		k.metrics.Resizes.InProgress.Inc()
	case w.resize.progress != nil && to == nil:
		k.metrics.Resizes.InProgress.Dec()
	}
	w.resize.progress = to
}

// countResize counts what a new version of a pod asks for.
func (k *Kubelet) countResize(was, is *v1.Pod) {
	if was.Generation == is.Generation {
		return
	}
	now := allocation.Of(is).Containers
	for name, before := range allocation.Of(was).Containers {
		after, ok := now[name]
		if !ok {
			continue
		}
		for requirement, lists := range map[string][2]v1.ResourceList{"requests": {before.Requests, after.Requests}, "limits": {before.Limits, after.Limits}} {
			for _, resource := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
				had, wants := lists[0][resource], lists[1][resource]
				if operation := changed(&had, &wants); operation != "" {
					k.metrics.Resizes.Asked.WithLabelValues(string(resource), requirement, operation).Inc()
				}
			}
		}
	}
}

// changed is how the metric calls a change; empty: there is none.
func changed(had, wants *apiresource.Quantity) string {
	switch order := wants.Cmp(*had); {
	case order == 0:
		return ""
	case wants.IsZero():
		return "remove"
	case had.IsZero():
		return "add"
	case order < 0:
		return "decrease"
	}
	return "increase"
}

func resizeCondition(t v1.PodConditionType, reason, message string, generation int64) *v1.PodCondition {
	return &v1.PodCondition{Type: t, Status: v1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: metav1.Now()}
}

// grant gives a pod what its spec asks for if the node has room for it, and returns the pod as it was granted.
func (k *Kubelet) grant(w *worker, pod *v1.Pod, have *containers.Status) (*v1.Pod, error) {
	granted, desired := k.grants.Apply(pod)
	if desired {
		did, err := k.tryToGrant(w, pod, granted)
		if err != nil {
			return nil, err
		}
		if did {
			granted = pod
		}
	} else {
		k.setPending(w, pod, nil, "reverted")
	}
	resizing := containers.Resizing(granted, have, k.grants)
	w.holdBoth(resizing)
	switch {
	case resizing:
		if w.resize.progress == nil {
			k.setProgress(w, resizeCondition(v1.PodResizeInProgress, "", "", pod.Generation))
		}
	case w.resize.progress != nil:
		k.resizeEvent(granted, v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", w.resize.progress.ObservedGeneration, "")
		k.setProgress(w, nil)
		k.wakeWaiting(podResized) // it may have become smaller
	}
	return granted, nil
}

// tryToGrant leaves the pod pending if it cannot have what it asks for, or if others come first who need the room.
func (k *Kubelet) tryToGrant(w *worker, pod, granted *v1.Pod) (granting bool, err error) {
	k.admission.Lock()
	defer k.admission.Unlock()
	node := k.agent.Node()
	if node == nil {
		return false, fmt.Errorf("node %q is not registered yet", k.cfg.Node.Name)
	}
	if why, detail := k.neverFits(pod, granted); why != "" {
		if k.putOff(w, pod, v1.PodReasonInfeasible, why) {
			k.metrics.Resizes.Infeasible.WithLabelValues(detail).Inc()
		}
		return false, nil
	}
	if r := k.noTurn(w, pod, granted, node); r != nil {
		if w.makingRoom() {
			return false, nil
		}
		other, err := k.makeRoom(w, pod, node)
		if errors.Is(err, errMakingRoom) {
			return false, nil
		}
		k.putOff(w, pod, v1.PodReasonDeferred, strings.TrimPrefix(cmp.Or(other, r).Message, "Pod was rejected: "))
		return false, err
	}
	if err := k.grants.Allocate(pod); err != nil {
		return false, err
	}
	if was := w.resize.pending; was != nil && was.Reason == v1.PodReasonDeferred {
		because := w.nudged()
		if was.ObservedGeneration != pod.Generation {
			because = podUpdated
		}
		k.metrics.Resizes.Accepted.WithLabelValues(because).Inc()
	}
	k.setPending(w, pod, nil, "accepted")
	w.holdBoth(true)
	k.setProgress(w, resizeCondition(v1.PodResizeInProgress, "", "", pod.Generation))
	k.resizeEvent(pod, v1.EventTypeNormal, "ResizeStarted", "Pod resize started", pod.Generation, "")
	k.wakeWaiting(podResized) // who comes after it may go on
	return true, nil
}

// putOff notes why a pod cannot have what it asks for, at the moment or at all, and says whether that is news.
func (k *Kubelet) putOff(w *worker, pod *v1.Pod, reason, message string) (news bool) {
	was, now := w.resize.pending, resizeCondition(v1.PodResizePending, reason, message, pod.Generation)
	if was != nil && was.Reason == reason {
		now.LastTransitionTime = was.LastTransitionTime
	}
	k.setPending(w, pod, now, "")
	if was != nil && was.Reason == reason && was.ObservedGeneration == pod.Generation {
		return false
	}
	k.resizeEvent(pod, v1.EventTypeWarning, "Resize"+reason, "Pod resize "+reason, pod.Generation, message)
	return true
}

// neverFits says why this node cannot resize the pod, whatever room there is; detail is that for the metric.
func (k *Kubelet) neverFits(pod, granted *v1.Pod) (why, detail string) {
	guaranteed := qos.GetPodQOS(pod) == v1.PodQOSGuaranteed
	for i, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		had := [][]v1.Container{granted.Spec.InitContainers, granted.Spec.Containers}[i]
		for j := range list {
			c, was := &list[j], &had[j]
			cpu := c.Resources.Requests.Cpu().Cmp(*was.Resources.Requests.Cpu()) != 0
			memory := c.Resources.Requests.Memory().Cmp(*was.Resources.Requests.Memory()) != 0
			switch {
			case memory && !containers.RestartsFor(was, v1.ResourceMemory) && (k.runtime.Swaps(pod, c) || k.runtime.Swaps(granted, was)):
				return "In-place resize of containers with swap is not supported.", "swap_limitation"
			case cpu && guaranteed && k.cpus != nil:
				return `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`, "guaranteed_pod_cpu_manager_static_policy"
			case memory && guaranteed && k.memory != nil:
				return `Resize is infeasible for Guaranteed Pods alongside Memory Manager policy "Static"`, "guaranteed_pod_memory_manager_static_policy"
			}
		}
	}
	return "", ""
}

// noTurn says why a pod cannot have what it asks for now: there is no room for it, or none beside what those get that come before it.
func (k *Kubelet) noTurn(w *worker, pod, granted *v1.Pod, node *v1.Node) *admit.Rejection {
	others := k.rivals(pod.UID)
	if r := admit.CheckResize(pod, node, others); r != nil {
		return r
	}
	for _, first := range k.before(w, wish{pod: pod, granted: granted, since: time.Now()}) {
		i := slices.IndexFunc(others, func(p *v1.Pod) bool { return p.UID == first.pod.UID })
		if i < 0 || admit.CheckResize(first.pod, node, slices.Delete(slices.Clone(others), i, i+1)) != nil {
			continue
		}
		others[i] = first.pod
		k.wake(first.pod.UID)
	}
	return admit.CheckResize(pod, node, others)
}

// wish is what a running pod asks for and does not have yet.
type wish struct {
	pod, granted *v1.Pod
	since        time.Time
}

// before lists the pods that wait for room and come before another, in their order.
func (k *Kubelet) before(w *worker, one wish) []wish {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []wish
	for _, other := range k.workers {
		other.mu.Lock()
		pod, since, waits := other.pod, other.waits, !other.waits.IsZero() && other.stage == syncing
		other.mu.Unlock()
		if !waits {
			continue
		}
		if other == w {
			one.since = since
			continue
		}
		granted, desired := k.grants.Apply(pod)
		if desired {
			all = append(all, wish{pod, granted, since})
		}
	}
	all = slices.DeleteFunc(all, func(other wish) bool { return compareWishes(other, one) > 0 })
	slices.SortFunc(all, compareWishes)
	return all
}

// compareWishes puts those first that are to have first what they ask for: who asks for no more than it has, then the most important,
// those with guarantees, and those that have waited longest.
func compareWishes(a, b wish) int {
	return cmp.Or(
		cmp.Compare(a.grows(), b.grows()),
		cmp.Compare(ptr.Deref(b.pod.Spec.Priority, 0), ptr.Deref(a.pod.Spec.Priority, 0)),
		cmp.Compare(a.class(), b.class()),
		a.since.Compare(b.since),
		cmp.Compare(a.pod.UID, b.pod.UID),
	)
}

func (w wish) grows() int {
	had, wants := resource.PodRequests(w.granted, resource.PodResourcesOptions{}), resource.PodRequests(w.pod, resource.PodResourcesOptions{})
	if wants.Cpu().Cmp(*had.Cpu()) > 0 || wants.Memory().Cmp(*had.Memory()) > 0 {
		return 1
	}
	return 0
}

func (w wish) class() int {
	if qos.GetPodQOS(w.pod) == v1.PodQOSGuaranteed {
		return 0
	}
	return 1
}

// resizeFailed tells why a granted change could not be made, and says whether that is news.
func (k *Kubelet) resizeFailed(w *worker, pod *v1.Pod, err error) bool {
	if err == nil {
		return false
	}
	was := w.resize.progress
	if was != nil && was.Reason == v1.PodReasonError && was.Message == err.Error() {
		return false
	}
	generation := pod.Generation
	if was != nil {
		generation = was.ObservedGeneration
	}
	k.setProgress(w, resizeCondition(v1.PodResizeInProgress, v1.PodReasonError, err.Error(), generation))
	k.resizeEvent(pod, v1.EventTypeWarning, "ResizeError", "Pod resize error", generation, err.Error())
	return true
}

// wait notes since when the pod waits for room to grow; zero: it does not.
func (w *worker) wait(since time.Time) {
	w.mu.Lock()
	if w.waits.IsZero() || since.IsZero() {
		w.nudge = ""
	}
	w.waits = since
	w.mu.Unlock()
}

// nudged is what last may have made room for the pod.
func (w *worker) nudged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return cmp.Or(w.nudge, byTheWay)
}

// holdBoth notes whether the pod still has what it was granted before: until its containers have followed, it holds that, too.
func (w *worker) holdBoth(yes bool) {
	w.mu.Lock()
	w.holds = yes
	w.mu.Unlock()
}

// wakeWaiting lets the pods try again that wait for room to grow.
func (k *Kubelet) wakeWaiting(because string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		w.mu.Lock()
		if !w.waits.IsZero() {
			w.nudge = because
			signal(w.news)
		}
		w.mu.Unlock()
	}
}

// resizeEvent tells what was asked for, in the form that upstream's has.
func (k *Kubelet) resizeEvent(pod *v1.Pod, eventType, reason, message string, generation int64, failure string) {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources,omitempty"`
	}
	summary := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: failure}
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	if text, err := json.Marshal(summary); err == nil {
		message += ": " + string(text)
	}
	k.events.Event(pod, eventType, reason, message)
}
