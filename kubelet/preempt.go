// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/admit"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
)

// What is told of pods that are ended for a critical one.
const (
	preemptReason     = "Preempting"
	preemptMessage    = "Preempted in order to admit critical pod"
	preemptDisruption = "Pod was preempted by Kubelet to accommodate a critical pod."
)

// errMakingRoom puts a critical pod off until those have ended that are ended for it.
var errMakingRoom = errors.New("pods are being ended to make room for this critical pod")

// makeRoom ends other pods if that is all it takes for a critical one to run here. It returns errMakingRoom while they end, a
// rejection if that is of no use, and neither if it is not what the pod needs.
func (k *Kubelet) makeRoom(w *worker, pod *v1.Pod, node *v1.Node) (*admit.Rejection, error) {
	others := k.rivals(pod.UID)
	short := admit.Short(pod, node, others)
	if !eviction.Critical(pod) || len(short) == 0 {
		return nil, nil
	}
	victims, err := admit.Victims(slices.DeleteFunc(others, func(other *v1.Pod) bool { return !preemptable(pod, other) }), short)
	if err != nil {
		return unexpected(fmt.Errorf("Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: %w", err)), nil //nolint:staticcheck // upstream's words
	}
	for _, victim := range victims {
		k.events.Event(victim, v1.EventTypeWarning, preemptReason, preemptMessage)
		k.metrics.Preemptions.WithLabelValues(string(short[0].Name)).Inc()
		w.room = append(w.room, k.endPod(victim.UID, preemptReason, preemptMessage, preemptDisruption, nil))
	}
	ctx, room := k.context(), slices.Clone(w.room)
	k.wg.Go(func() {
		for _, ended := range room {
			select {
			case <-ended:
			case <-ctx.Done():
				return
			}
		}
		signal(w.news)
	})
	return nil, errMakingRoom
}

// makingRoom says whether pods are still ending for a critical one.
func (w *worker) makingRoom() bool {
	w.room = slices.DeleteFunc(w.room, func(ended <-chan struct{}) bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	return len(w.room) > 0
}

func preemptable(by, pod *v1.Pod) bool {
	if !eviction.Critical(pod) {
		return true
	}
	return by.Spec.Priority != nil && pod.Spec.Priority != nil && *by.Spec.Priority > *pod.Spec.Priority
}
