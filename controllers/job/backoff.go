// SPDX-License-Identifier: Apache-2.0

package job

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// After the first failure in a row a pod is replaced in firstDelay, after each further one in twice that, up to maxDelay.
const (
	firstDelay = 10 * time.Second
	maxDelay   = 10 * time.Minute
)

// failures are those since the last success.
type failures struct {
	count int
	last  time.Time // by the clock of the pod's node; the zero time if count is 0
	seen  time.Time // when the controller learnt of it, likewise
}

// with adds pods that have ended since.
func (f failures) with(succeeded, failed []*corev1.Pod, now time.Time) failures {
	var lastSuccess time.Time
	for _, pod := range succeeded {
		if at := endTime(pod); at.After(lastSuccess) {
			lastSuccess = at
		}
	}
	if len(succeeded) > 0 {
		f = failures{}
	}
	for _, pod := range failed {
		at := endTime(pod)
		if len(succeeded) > 0 && !at.After(lastSuccess) {
			continue
		}
		f.count, f.seen = f.count+1, now
		if at.After(f.last) {
			f.last = at
		}
	}
	return f
}

// left is how long no pod is to be created: not for longer than the delay after the last failure was seen, though it may be yet to
// come by this clock, if that was set back or the node's is ahead.
func (f failures) left(now time.Time) time.Duration {
	if f.count == 0 {
		return 0
	}
	delay := firstDelay
	for range f.count - 1 {
		if delay *= 2; delay >= maxDelay {
			delay = maxDelay
			break
		}
	}
	return max(0, delay-max(now.Sub(f.last), now.Sub(f.seen)))
}

// leftForIndex is how long no pod is to be created for an index whose last pod failed; 0 if none did. One that ends later than now has been
// there at least.
func leftForIndex(lastFailed *corev1.Pod, now time.Time) time.Duration {
	if lastFailed == nil {
		return 0
	}
	last := endTime(lastFailed)
	if last.After(now) {
		last = lastFailed.CreationTimestamp.Time
	}
	return failures{count: absoluteFailures(lastFailed) + 1, last: last, seen: last}.left(now)
}

// endTime is when the pod ended: when its last container did; or else when it stopped being ready; or else when
// it was asked to end. A pod that the kubelet or the pod garbage collector has dealt with has one of these.
func endTime(pod *corev1.Pod) time.Time {
	if at, ok := containersEnd(pod); ok {
		return at
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Time
		}
	}
	if pod.DeletionTimestamp != nil {
		grace := time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second
		return pod.DeletionTimestamp.Add(-grace)
	}
	return pod.CreationTimestamp.Time
}

// containersEnd is when the last container ended, sidecars included; ok is false if one has not.
func containersEnd(pod *corev1.Pod) (last time.Time, ok bool) {
	statuses := pod.Status.ContainerStatuses
	for _, c := range pod.Spec.InitContainers {
		if ptr.Deref(c.RestartPolicy, "") != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for _, s := range pod.Status.InitContainerStatuses {
			if s.Name == c.Name {
				statuses = append(statuses[:len(statuses):len(statuses)], s)
			}
		}
	}
	for _, s := range statuses {
		if s.State.Terminated == nil || s.State.Terminated.FinishedAt.IsZero() {
			return time.Time{}, false
		}
		if at := s.State.Terminated.FinishedAt.Time; at.After(last) {
			last = at
		}
	}
	return last, len(statuses) > 0
}
