// SPDX-License-Identifier: Apache-2.0

// Package podcontainers is for who has to do with all containers of a pod alike.
package podcontainers

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// All iterates over the containers in a pod's spec: init containers, containers, and ephemeral ones, which look like the others. They are
// the pod's own.
func All(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)) {
				return
			}
		}
	}
}
