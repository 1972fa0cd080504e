// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	resourcehelper "k8s.io/component-helpers/resource"
)

const deviceClassPrefix = "deviceclass.resource.kubernetes.io/"

func podEvaluator(lister quota.ListerForResourceFunc) *evaluator {
	return &evaluator{
		resource: Pods, list: generic.ListResourceUsingListerFunc(lister, Pods),
		handles: handlesPod, names: chargesPod, scope: podInScope, usage: podUsage, constraints: podConstraints,
	}
}

// handlesPod looks at updates only if they change the pod's size or its scope.
func handlesPod(a admission.Attributes) bool {
	switch a.GetSubresource() {
	case "":
		if a.GetOperation() == admission.Update {
			pod, ok := a.GetObject().(*corev1.Pod)
			old, okOld := a.GetOldObject().(*corev1.Pod)
			return ok && okOld && isTerminating(pod) != isTerminating(old)
		}
		return a.GetOperation() == admission.Create
	case "resize":
		return a.GetOperation() == admission.Update
	}
	return false
}

func chargesPod(name corev1.ResourceName) bool {
	switch name {
	case "count/pods", corev1.ResourcePods,
		corev1.ResourceCPU, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU,
		corev1.ResourceMemory, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory,
		corev1.ResourceEphemeralStorage, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceLimitsEphemeralStorage:
		return true
	}
	request, isRequest := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) ||
		isRequest && (strings.HasPrefix(request, corev1.ResourceHugePagesPrefix) || isExtended(request))
}

// isExtended tells resources that devices offer from those of Kubernetes itself.
func isExtended(name string) bool {
	return strings.HasPrefix(name, deviceClassPrefix) || strings.Contains(name, "/") && !strings.Contains(name, "kubernetes.io/")
}

func podInScope(s corev1.ScopedResourceSelectorRequirement, item runtime.Object) (bool, error) {
	pod, ok := item.(*corev1.Pod)
	if !ok {
		return false, fmt.Errorf("expect *v1.Pod, got %T", item)
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return isTerminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !isTerminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return isBestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !isBestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(s, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksAcrossNamespaces(pod), nil
	}
	return false, nil
}

func isTerminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// isBestEffort is a pod that asks for no CPU and no memory, nor limits them.
func isBestEffort(pod *corev1.Pod) bool {
	asks := func(lists ...corev1.ResourceList) bool {
		return slices.ContainsFunc(lists, func(l corev1.ResourceList) bool { return !l.Cpu().IsZero() || !l.Memory().IsZero() })
	}
	if r := pod.Spec.Resources; r != nil && asks(r.Requests, r.Limits) {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers), func(c corev1.Container) bool {
		return asks(c.Resources.Requests, c.Resources.Limits)
	})
}

func looksAcrossNamespaces(pod *corev1.Pod) bool {
	if pod.Spec.Affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	var weighted []corev1.WeightedPodAffinityTerm
	if a := pod.Spec.Affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a := pod.Spec.Affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for _, w := range weighted {
		terms = append(terms, w.PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}

// podUsage charges a pod for what it has until it is over.
func podUsage(item runtime.Object) (corev1.ResourceList, error) {
	pod, ok := item.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("expect *v1.Pod, got %T", item)
	}
	usage := corev1.ResourceList{"count/pods": count(1)}
	if isOver(pod, time.Now()) {
		return usage, nil
	}
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	return quota.Add(usage, charges(resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))), nil
}

// isOver is a pod that has ended, or whose time to end has passed: a lost node must not hold a quota.
func isOver(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	return now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
}

// charges names requests and limits as quotas do.
func charges(requests, limits corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{corev1.ResourcePods: count(1)}
	for name, quantity := range requests {
		asRequest := corev1.ResourceName(corev1.DefaultResourceRequestsPrefix + string(name))
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			out[name], out[asRequest] = quantity, quantity
		case isExtended(string(name)):
			out[asRequest] = quantity
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if quantity, ok := limits[name]; ok {
			out["limits."+name] = quantity
		}
	}
	return out
}

// podConstraints wants each container to say how much it takes of what the quota limits.
func podConstraints(required []corev1.ResourceName, item runtime.Object) error {
	pod, ok := item.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("expect *v1.Pod, got %T", item)
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	missing := map[corev1.ResourceName]sets.Set[string]{}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		says := charges(c.Resources.Requests, c.Resources.Limits)
		for _, name := range required {
			if _, ok := says[name]; ok || !mustBeSaid(name) {
				continue
			}
			if missing[name] == nil {
				missing[name] = sets.New[string]()
			}
			missing[name].Insert(c.Name)
		}
	}
	var parts []string
	for _, name := range sets.List(sets.KeySet(missing)) {
		parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(sets.List(missing[name]), ",")))
	}
	if len(parts) > 0 {
		return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
	}
	return nil
}

func mustBeSaid(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceRequestsCPU, corev1.ResourceLimitsCPU,
		corev1.ResourceMemory, corev1.ResourceRequestsMemory, corev1.ResourceLimitsMemory:
		return true
	}
	return false
}
