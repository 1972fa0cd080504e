// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/shutdown"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// ending is the node as the shutdown manager sees it.
type ending struct{ k *Kubelet }

func (e ending) Pods() []*v1.Pod { return e.k.active() }

func (e ending) Changed() { e.k.agent.Poke() }

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
	return w.ended
}
