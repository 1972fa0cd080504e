// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/shutdown"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// leastPatience is how many seconds a pod may take to end whatever its grace period.
const leastPatience = 10

// ending is the node as the shutdown manager sees it.
type ending struct{ k *Kubelet }

func (e ending) Pods() []*v1.Pod { return e.k.active() }

func (e ending) Changed() {
	message := "Shutdown manager detected shutdown cancellation"
	if e.k.shutdown.Begun() {
		message = "Shutdown manager detected shutdown event"
	}
	e.k.events.Event(e.k.agent.Ref(), v1.EventTypeNormal, "Shutdown", message)
	e.k.agent.Poke()
}

func (e ending) End(uid types.UID, grace int64) <-chan struct{} {
	return e.k.endPod(uid, shutdown.EndReason, shutdown.EndMessage, shutdown.EndMessage, &grace)
}

// endPod ends a pod for the node's sake, within so many seconds or its own grace; its controller may make another elsewhere. The
// channel is closed when nothing of it is left.
func (k *Kubelet) endPod(uid types.UID, reason, message, disruption string, grace *int64) <-chan struct{} {
	k.mu.Lock()
	w := k.workers[uid]
	k.mu.Unlock()
	if w == nil { // it went by itself
		gone := make(chan struct{})
		close(gone)
		return gone
	}
	w.mu.Lock()
	generation := w.pod.Generation
	w.mu.Unlock()
	w.decide(&status.End{
		Phase: v1.PodFailed, Reason: reason, Message: message,
		Condition: &v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: disruption, ObservedGeneration: generation, LastTransitionTime: metav1.Now(),
		},
	}, grace)
	k.wg.Go(func() { k.expectEnd(w, grace) })
	return w.ended
}

// expectEnd tells when a pod that was ended takes much longer for that than it has.
func (k *Kubelet) expectEnd(w *worker, grace *int64) {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	seconds := ptr.Deref(cmp.Or(grace, pod.Spec.TerminationGracePeriodSeconds), 0)
	timer := time.NewTimer(time.Duration(max(seconds+seconds/2, leastPatience)) * time.Second)
	defer timer.Stop()
	select {
	case <-w.ended:
	case <-k.context().Done():
	case <-timer.C:
		k.events.Event(pod, v1.EventTypeWarning, "ExceededGracePeriod", "Container runtime did not kill the pod within specified grace period.")
	}
}
