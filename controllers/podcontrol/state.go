// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
)

// Terminal tells whether all containers of the pod have ended for good.
func Terminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active tells whether the pod counts as a replica: it neither ended nor is asked to.
func Active(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp == nil }

// Terminating tells whether the pod is asked to end and has not yet.
func Terminating(pod *corev1.Pod) bool { return !Terminal(pod) && pod.DeletionTimestamp != nil }

// Filter returns the pods for which keep is true.
func Filter(pods []*corev1.Pod, keep func(*corev1.Pod) bool) []*corev1.Pod {
	var kept []*corev1.Pod
	for _, pod := range pods {
		if keep(pod) {
			kept = append(kept, pod)
		}
	}
	return kept
}

// Owned returns the pods that the owner controls and its selector matches.
func Owned(pods []*corev1.Pod, owner metav1.Object, selector labels.Selector) []*corev1.Pod {
	return Filter(pods, func(pod *corev1.Pod) bool {
		return metav1.IsControlledBy(pod, owner) && selector.Matches(labels.Set(pod.Labels))
	})
}

// Condition returns the pod's condition of that type, or nil.
func Condition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready tells whether the pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// readySince is when the pod became ready; zero if it is not.
func readySince(pod *corev1.Pod) time.Time {
	if c := Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// Available tells whether the pod has been ready for at least minReadySeconds.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	if !Ready(pod) {
		return false
	}
	if minReadySeconds == 0 {
		return true
	}
	since := readySince(pod)
	return !since.IsZero() && !since.Add(seconds(minReadySeconds)).After(now)
}

// NextAvailable returns in how long the next of the pods becomes available, if none of them changes; 0 if none does.
func NextAvailable(pods []*corev1.Pod, minReadySeconds int32, now time.Time) time.Duration {
	next := time.Duration(0)
	for _, pod := range pods {
		since := readySince(pod)
		if since.IsZero() || minReadySeconds <= 0 {
			continue
		}
		if left := since.Add(seconds(minReadySeconds)).Sub(now); left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// restarts returns the highest restart counts among the pod's containers and among its sidecars.
func restarts(pod *corev1.Pod) (containers, sidecars int32) {
	for _, s := range pod.Status.ContainerStatuses {
		containers = max(containers, s.RestartCount)
	}
	for _, s := range pod.Status.InitContainerStatuses {
		for _, c := range pod.Spec.InitContainers {
			if c.Name == s.Name && ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
				sidecars = max(sidecars, s.RestartCount)
			}
		}
	}
	return containers, sidecars
}
