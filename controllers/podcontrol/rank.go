// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// SortForDeletion orders pods so that those to delete first come first. Of two pods, the first goes that
//
//  1. has no node yet,
//  2. is Pending rather than Unknown, Unknown rather than Running,
//  3. is not ready,
//  4. has the lower controller.kubernetes.io/pod-deletion-cost,
//  5. shares its node with more active pods of related (the owner's and its siblings'),
//  6. has been ready for a shorter time, compared on a logarithmic scale,
//  7. has more restarts, then more restarts of sidecars,
//  8. is younger, on the same scale;
//
// within one step of the scale the UID decides, which is as good as at random.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset
func SortForDeletion(pods, related []*corev1.Pod, now time.Time) {
	onNode := map[string]int{}
	for _, pod := range related {
		if Active(pod) {
			onNode[pod.Spec.NodeName]++
		}
	}
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		restartsA, sidecarsA := restarts(a)
		restartsB, sidecarsB := restarts(b)
		return cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(phaseOrder(a), phaseOrder(b)),
			falseFirst(Ready(a), Ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]),
			youngerFirst(a, b, readySince(a), readySince(b), now),
			cmp.Compare(restartsB, restartsA),
			cmp.Compare(sidecarsB, sidecarsA),
			youngerFirst(a, b, a.CreationTimestamp.Time, b.CreationTimestamp.Time, now),
		)
	})
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseOrder(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodUnknown:
		return 1
	case corev1.PodRunning:
		return 2
	}
	return 0
}

// deletionCost is 0 if the annotation is not there or not a number as the API server accepts it.
func deletionCost(pod *corev1.Pod) int32 {
	value, ok := pod.Annotations[corev1.PodDeletionCost]
	if !ok || value == "" || value[0] == '+' || (len(value) > 1 && value[0] == '0') {
		return 0
	}
	cost, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0
	}
	return int32(cost)
}

// youngerFirst compares two moments in the life of pods a and b. A moment that is not known is the youngest.
func youngerFirst(a, b *corev1.Pod, sinceA, sinceB, now time.Time) int {
	if sinceA.Equal(sinceB) {
		return 0
	}
	if sinceA.IsZero() || sinceB.IsZero() {
		return falseFirst(!sinceA.IsZero(), !sinceB.IsZero())
	}
	return cmp.Or(
		cmp.Compare(magnitude(now.Sub(sinceA)), magnitude(now.Sub(sinceB))),
		cmp.Compare(a.UID, b.UID),
	)
}

func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}
