// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const onlyCPUAndMemory = "only cpu and memory resources are mutable"

// preparePodResizeUpdate keeps everything but resources and resize policies. Where containers came,
// went or changed places it keeps what the user sent, for validation to say so.
func preparePodResizeUpdate(pod, old *corev1.Pod) {
	if len(pod.Spec.Containers) == len(old.Spec.Containers) && len(pod.Spec.InitContainers) == len(old.Spec.InitContainers) {
		containers := onlyResources(pod.Spec.Containers, old.Spec.Containers)
		initContainers := onlyResources(pod.Spec.InitContainers, old.Spec.InitContainers)
		resources := pod.Spec.Resources
		pod.Spec, pod.Status = old.Spec, old.Status
		pod.Spec.Containers, pod.Spec.InitContainers, pod.Spec.Resources = containers, initContainers, resources
		metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
	}
	keepPodLevelResources(pod, old)
	podspec.DefaultPodLevelResources(pod)
	podspec.DropDisabledPod(pod, old)
	countPodChange(pod, old)
}

func onlyResources(containers, old []corev1.Container) []corev1.Container {
	if len(containers) == 0 {
		return containers
	}
	merged := make([]corev1.Container, len(old))
	for i, c := range containers {
		if c.Name != old[i].Name {
			return containers
		}
		merged[i] = old[i]
		merged[i].Resources, merged[i].ResizePolicy = c.Resources, c.ResizePolicy
	}
	return merged
}

// validatePodResizeUpdate allows the CPU and memory of a running Pod to change, but not its QoS class.
func validatePodResizeUpdate(pod, old *corev1.Pod) field.ErrorList {
	root, path := field.NewPath(""), field.NewPath("spec")
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(root, "static pods cannot be resized")}
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		return field.ErrorList{field.Forbidden(root, "windows pods cannot be resized")}
	}
	errs := rule.ObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidatePod(pod, podspec.OptionsForPod(old))...)
	class := old.Status.QOSClass
	if class == "" {
		class = podspec.QOSClass(old)
	}
	errs = append(errs, rule.If(class != podspec.QOSClass(pod), field.Invalid(path, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))...)
	errs = append(errs, rule.If(!nodeCanResize(old), field.Forbidden(path, "Pod running on node without support for resize"))...)

	rest := pod.Spec.DeepCopy() // with what may change set back to what it was
	if hasResources(&old.Spec) || hasResources(rest) {
		errs = append(errs, validatePodLevelResize(path, rest, &old.Spec)...)
	}
	if order := validateSameContainers(path, &pod.Spec, &old.Spec); len(order) > 0 {
		return append(errs, order...)
	}
	for i := range rest.InitContainers {
		errs = append(errs, validateInitContainerResize(path.Child("initContainers").Index(i), &rest.InitContainers[i], &old.Spec.InitContainers[i])...)
	}
	for i := range rest.Containers {
		c, was := &rest.Containers[i], &old.Spec.Containers[i]
		errs = append(errs, validateResourcesKept(path.Child("containers").Index(i).Child("resources"), &c.Resources, &was.Resources)...)
		restoreCPUAndMemory(&c.Resources, &was.Resources)
		errs = append(errs, rule.If(!equality.Semantic.DeepEqual(c, was), field.Forbidden(path, onlyCPUAndMemory))...)
	}
	errs = append(errs, rule.If(!equality.Semantic.DeepEqual(pod.Spec.Volumes, old.Spec.Volumes), field.Forbidden(path.Child("volumes"),
		"volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled"))...)
	if len(errs) == 0 && !equality.Semantic.DeepEqual(rest, &old.Spec) {
		errs = append(errs, field.Forbidden(path, onlyCPUAndMemory))
	}
	return errs
}

// nodeCanResize: a kubelet that can resize reports the resources of running containers.
func nodeCanResize(pod *corev1.Pod) bool {
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Running != nil {
			return s.Resources != nil
		}
	}
	return true
}

func validateSameContainers(path *field.Path, spec, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name    string
		is, was []corev1.Container
	}{{"containers", spec.Containers, old.Containers}, {"initContainers", spec.InitContainers, old.InitContainers}} {
		at := path.Child(list.name)
		if len(list.is) != len(list.was) {
			errs = append(errs, field.Forbidden(at, list.name+" may not be added or removed on resize"))
			continue
		}
		for i := range list.is {
			errs = append(errs, rule.If(list.is[i].Name != list.was[i].Name,
				field.Forbidden(at.Index(i).Child("name"), list.name+" may not be renamed or reordered on resize"))...)
		}
	}
	return errs
}

// validateInitContainerResize sets CPU and memory back after it looked at them.
func validateInitContainerResize(path *field.Path, c, was *corev1.Container) field.ErrorList {
	errs := validateResourcesKept(path.Child("resources"), &c.Resources, &was.Resources)
	changed := !equality.Semantic.DeepEqual(c, was)
	restoreCPUAndMemory(&c.Resources, &was.Resources)
	errs = append(errs, rule.If(!equality.Semantic.DeepEqual(c, was),
		field.Forbidden(path, "only cpu and memory resources for init or sidecar containers are mutable"))...)
	for _, p := range c.ResizePolicy {
		errs = append(errs, rule.If(changed && !podspec.Sidecar(c) && p.RestartPolicy == corev1.RestartContainer,
			field.Forbidden(path, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))...)
	}
	return errs
}

func validateResourcesKept(path *field.Path, r, was *corev1.ResourceRequirements) field.ErrorList {
	errs := rule.If(removed(r.Requests, was.Requests), field.Forbidden(path.Child("requests"), "resource requests cannot be removed"))
	return append(errs, rule.If(removed(r.Limits, was.Limits), field.Forbidden(path.Child("limits"), "resource limits cannot be removed"))...)
}

func removed(list, was corev1.ResourceList) bool {
	for name := range was {
		if _, ok := list[name]; !ok {
			return true
		}
	}
	return false
}

// validatePodLevelResize sets CPU and memory of the pod as a whole back after it looked at them.
func hasResources(spec *corev1.PodSpec) bool {
	return spec.Resources != nil && len(spec.Resources.Requests)+len(spec.Resources.Limits) > 0
}

func validatePodLevelResize(path *field.Path, spec, old *corev1.PodSpec) field.ErrorList {
	at := path.Child("resources")
	was := old.Resources
	switch {
	case spec.Resources == nil && was == nil:
		return nil
	case spec.Resources == nil:
		return field.ErrorList{field.Forbidden(at, "pod-level resources cannot be removed")}
	case was == nil:
		was = &corev1.ResourceRequirements{}
	}
	errs := rule.If(removed(spec.Resources.Requests, was.Requests), field.Forbidden(at.Child("requests"), "pod-level resource requests cannot be removed"))
	errs = append(errs, rule.If(removed(spec.Resources.Limits, was.Limits), field.Forbidden(at.Child("limits"), "pod-level resource limits cannot be removed"))...)
	restoreCPUAndMemory(spec.Resources, was)
	if r := spec.Resources; old.Resources == nil && len(r.Requests) == 0 && len(r.Limits) == 0 && len(r.Claims) == 0 {
		spec.Resources = nil
	}
	return append(errs, rule.If(!equality.Semantic.DeepEqual(spec.Resources, old.Resources),
		field.Forbidden(path, onlyCPUAndMemory+" at pod-level"))...)
}

func restoreCPUAndMemory(r, was *corev1.ResourceRequirements) {
	r.Requests = withCPUAndMemoryOf(r.Requests, was.Requests)
	r.Limits = withCPUAndMemoryOf(r.Limits, was.Limits)
}

func withCPUAndMemoryOf(list, was corev1.ResourceList) corev1.ResourceList {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(list, name)
		if q, ok := was[name]; ok {
			if list == nil {
				list = corev1.ResourceList{}
			}
			list[name] = q
		}
	}
	return list
}

// What server-side apply of the subresources owns.
var (
	ownedByEphemeralContainers = map[fieldpath.APIVersion]fieldpath.Filter{"v1": fieldpath.NewIncludeMatcherFilter(
		fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers"))}
	ownedByResize = map[fieldpath.APIVersion]fieldpath.Filter{"v1": fieldpath.NewIncludeMatcherFilter(
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resizePolicy"))}
)
