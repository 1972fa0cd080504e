// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"encoding/json"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/kubelet/admit"
	"github.com/skiff-k8s/skiff/kubelet/containers"
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

// remember goes on where an earlier process stopped.
func (r *resizing) remember(pod *v1.Pod) {
	for i := range pod.Status.Conditions {
		switch c := pod.Status.Conditions[i]; c.Type {
		case v1.PodResizePending:
			r.pending = &c
		case v1.PodResizeInProgress:
			r.progress = &c
		}
	}
}

func resizeCondition(t v1.PodConditionType, reason, message string, generation int64) *v1.PodCondition {
	return &v1.PodCondition{Type: t, Status: v1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: metav1.Now().Rfc3339Copy()}
}

// grant gives a pod what its spec asks for if the node has room for it, and returns the pod as it was granted.
func (k *Kubelet) grant(w *worker, pod *v1.Pod, have *containers.Status) (*v1.Pod, error) {
	granted, desired := k.grants.Apply(pod)
	if !desired {
		w.resize.pending = nil
		w.wait(false)
	} else if err := k.tryToGrant(w, pod); err != nil {
		return nil, err
	} else if w.resize.pending == nil {
		granted = pod
	}
	switch {
	case containers.Resizing(granted, have, k.grants):
		if w.resize.progress == nil {
			w.resize.progress = resizeCondition(v1.PodResizeInProgress, "", "", pod.Generation)
		}
	case w.resize.progress != nil:
		k.resizeEvent(granted, v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", w.resize.progress.ObservedGeneration, "")
		w.resize.progress = nil
	}
	return granted, nil
}

// tryToGrant leaves the pod pending if there is no room for what it asks for.
func (k *Kubelet) tryToGrant(w *worker, pod *v1.Pod) error {
	k.admission.Lock()
	defer k.admission.Unlock()
	node := k.agent.Node()
	if node == nil {
		return fmt.Errorf("node %q is not registered yet", k.cfg.Node.Name)
	}
	if r := admit.CheckResize(pod, node, k.rivals(pod.UID)); r != nil {
		was, message := w.resize.pending, strings.TrimPrefix(r.Message, "Pod was rejected: ")
		w.resize.pending = resizeCondition(v1.PodResizePending, v1.PodReasonDeferred, message, pod.Generation)
		if was != nil && was.Reason == v1.PodReasonDeferred {
			w.resize.pending.LastTransitionTime = was.LastTransitionTime
		}
		if was == nil || was.Reason != v1.PodReasonDeferred || was.ObservedGeneration != pod.Generation {
			k.resizeEvent(pod, v1.EventTypeWarning, "ResizeDeferred", "Pod resize "+v1.PodReasonDeferred, pod.Generation, message)
		}
		w.wait(true)
		return nil
	}
	if err := k.grants.Allocate(pod); err != nil {
		return err
	}
	w.wait(false)
	w.resize = resizing{progress: resizeCondition(v1.PodResizeInProgress, "", "", pod.Generation)}
	k.resizeEvent(pod, v1.EventTypeNormal, "ResizeStarted", "Pod resize started", pod.Generation, "")
	k.wakeWaiting() // it may have become smaller
	return nil
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
	w.resize.progress = resizeCondition(v1.PodResizeInProgress, v1.PodReasonError, err.Error(), generation)
	k.resizeEvent(pod, v1.EventTypeWarning, "ResizeError", "Pod resize error", generation, err.Error())
	return true
}

func (w *worker) wait(yes bool) {
	w.mu.Lock()
	w.waits = yes
	w.mu.Unlock()
}

// wakeWaiting lets the pods try again that wait for room to grow.
func (k *Kubelet) wakeWaiting() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		w.mu.Lock()
		if w.waits {
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
