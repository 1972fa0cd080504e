// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// QOSClass says how a pod fares when memory is short. It is Guaranteed if all of its containers limit
// CPU and memory to what they request, BestEffort if none names either, and Burstable in between. The
// resources of the pod as a whole decide if there are any.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return requirementsClass(pod.Spec.Resources)
	}
	class := corev1.PodQOSClass("")
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			class = join(class, requirementsClass(&containers[i].Resources))
		}
	}
	return join(class, class)
}

func requirementsClass(r *corev1.ResourceRequirements) corev1.PodQOSClass {
	class := corev1.PodQOSClass("")
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		request, limit := r.Requests[name], r.Limits[name]
		switch {
		case !request.Equal(limit):
			return corev1.PodQOSBurstable
		case request.IsZero():
			class = join(class, corev1.PodQOSBestEffort)
		default:
			class = join(class, corev1.PodQOSGuaranteed)
		}
	}
	return class
}

// join is the class of two parts: theirs if they agree. A part without a class does not count.
func join(a, b corev1.PodQOSClass) corev1.PodQOSClass {
	switch {
	case a == "" && b == "":
		return corev1.PodQOSBestEffort
	case a == "":
		return b
	case a != b:
		return corev1.PodQOSBurstable
	}
	return a
}
