// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// DefaultPodLevelResources completes the resources of a pod as a whole, if it names any, from those of
// its containers. It runs after admission, which may have added containers. Limits of huge pages come
// first, since requests follow from limits; other limits last, since they are at least the requests.
func DefaultPodLevelResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Requests) == 0 && len(r.Limits) == 0 {
		return
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	requests := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})

	for name, limit := range limits {
		_, requested := r.Requests[name]
		if IsHugePages(name) && !requested {
			r.Limits = setIfMissing(r.Limits, name, limit)
		}
	}
	for name, request := range requests {
		if overcommitAllowed(name) {
			r.Requests = setIfMissing(r.Requests, name, request)
		}
	}
	for name, limit := range r.Limits {
		r.Requests = setIfMissing(r.Requests, name, limit)
	}
	for name, request := range r.Requests {
		if limit, ok := limits[name]; ok && allLimit(&pod.Spec, name) {
			if request.Cmp(limit) > 0 {
				limit = request
			}
			r.Limits = setIfMissing(r.Limits, name, limit)
		}
	}
}

func setIfMissing(list corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) corev1.ResourceList {
	if _, ok := list[name]; ok || !resourcehelper.IsSupportedPodLevelResource(name) {
		return list
	}
	if list == nil {
		list = corev1.ResourceList{}
	}
	list[name] = q.DeepCopy()
	return list
}

// allLimit tells whether each container limits a resource, so that the pod has a limit in effect.
func allLimit(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	for c := range Containers(spec, nil) {
		if _, ok := c.Resources.Limits[name]; !ok {
			return false
		}
	}
	return true
}
