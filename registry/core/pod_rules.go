// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const updatablePodFields = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// preparePodCreate gives a new Pod its first status, and completes what depends on all of its spec. The
// strings are warnings for the user.
func preparePodCreate(pod *corev1.Pod) []string {
	pod.Generation = 1
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	podspec.DropDisabledPod(pod, nil)
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type:               corev1.PodScheduled,
			Status:             corev1.ConditionFalse,
			Reason:             corev1.PodReasonSchedulingGated,
			Message:            "Scheduling is blocked due to non-empty scheduling gates",
			LastTransitionTime: metav1.Now(),
		}}
	}
	applyLabelKeys(pod)
	warnings := podspec.SyncAppArmor(pod)
	podspec.DefaultPodLevelResources(pod)
	pod.Status.QOSClass = podspec.QOSClass(pod)
	return warnings
}

// applyLabelKeys turns the label keys of affinity and spreading into requirements with the pod's values.
func applyLabelKeys(pod *corev1.Pod) {
	extend := func(selector *metav1.LabelSelector, operator metav1.LabelSelectorOperator, keys []string) {
		for _, key := range keys {
			if value, ok := pod.Labels[key]; ok && selector != nil {
				selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
			}
		}
	}
	terms := func(hard []corev1.PodAffinityTerm, soft []corev1.WeightedPodAffinityTerm) {
		for i := range hard {
			extend(hard[i].LabelSelector, metav1.LabelSelectorOpIn, hard[i].MatchLabelKeys)
			extend(hard[i].LabelSelector, metav1.LabelSelectorOpNotIn, hard[i].MismatchLabelKeys)
		}
		for i := range soft {
			term := &soft[i].PodAffinityTerm
			extend(term.LabelSelector, metav1.LabelSelectorOpIn, term.MatchLabelKeys)
			extend(term.LabelSelector, metav1.LabelSelectorOpNotIn, term.MismatchLabelKeys)
		}
	}
	if a := pod.Spec.Affinity; a != nil {
		if p := a.PodAffinity; p != nil {
			terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := a.PodAntiAffinity; p != nil {
			terms(p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		extend(c.LabelSelector, metav1.LabelSelectorOpIn, c.MatchLabelKeys)
	}
}

// preparePodUpdate keeps the status, which has an endpoint of its own.
func preparePodUpdate(pod, old *corev1.Pod) {
	pod.Status = old.Status
	keepPodLevelResources(pod, old)
	podspec.DropDisabledPod(pod, old)
	countPodChange(pod, old)
}

// keepPodLevelResources is for clients that do not know the field and leave it out.
func keepPodLevelResources(pod, old *corev1.Pod) {
	if pod.Spec.Resources == nil && old.Spec.Resources != nil {
		pod.Spec.Resources = old.Spec.Resources.DeepCopy()
	}
}

func countPodChange(pod, old *corev1.Pod) {
	if !equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}

func validatePod(pod *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.ObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidatePod(pod, podspec.OptionsForPod(nil))...)
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, podspec.ValidateProfiles(path, &pod.ObjectMeta, &pod.Spec)...)
}

// podWarnings are for new Pods; updates change too little to warn again.
func podWarnings(pod *corev1.Pod) []string {
	var list []string
	if msgs := validation.IsDNS1123Label(pod.Name); len(msgs) > 0 {
		list = append(list, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", msgs))
	}
	return append(list, podspec.Warnings(nil, &pod.ObjectMeta, &pod.Spec)...)
}

// validatePodUpdate allows a user to change little of a Pod: images, a shorter deadline, more
// tolerations, fewer scheduling gates, and while there are gates, where it may run.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	o := podspec.OptionsForPod(old)
	path := field.NewPath("spec")
	errs := rule.ObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidatePod(pod, o)...)
	errs = append(errs, validatePodAnnotationsUpdate(pod, old, o)...)

	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	deadlineErrs := validateDeadlineUpdate(path.Child("activeDeadlineSeconds"), pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)
	errs = append(errs, deadlineErrs...)
	if len(deadlineErrs) > 0 && pod.Spec.ActiveDeadlineSeconds != nil {
		return errs
	}
	errs = append(errs, podspec.ValidateTolerationsUpdate(path.Child("tolerations"), pod.Spec.Tolerations, old.Spec.Tolerations, o)...)
	errs = append(errs, validateGatesUpdate(path.Child("schedulingGates"), pod.Spec.SchedulingGates, old.Spec.SchedulingGates)...)
	if equality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		return errs
	}

	// What may change is set back to what it was; nothing else may differ then.
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.Tolerations = old.Spec.Tolerations
	if ptr.Deref(old.Spec.TerminationGracePeriodSeconds, 0) < 0 && ptr.Deref(rest.TerminationGracePeriodSeconds, 0) == 1 {
		rest.TerminationGracePeriodSeconds = old.Spec.TerminationGracePeriodSeconds
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateGatedUpdate(path, rest, &old.Spec)...)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("pod updates may not change fields other than %s\n%v", updatablePodFields, diff.Diff(old.Spec, *rest))))
	}
	return errs
}

func validatePodAnnotationsUpdate(pod, old *corev1.Pod, o podspec.Options) field.ErrorList {
	return podspec.ValidateAnnotationsUpdate(field.NewPath("metadata", "annotations"), pod.Annotations, old.Annotations, &pod.Spec, o)
}

// validateDeadlineUpdate: a deadline can be set and can come nearer.
func validateDeadlineUpdate(path *field.Path, seconds, old *int64) field.ErrorList {
	switch {
	case seconds == nil && old != nil:
		return field.ErrorList{field.Invalid(path, seconds, "must not update from a positive integer to nil value")}
	case seconds == nil:
		return nil
	case *seconds < 0 || *seconds > math.MaxInt32:
		return field.ErrorList{field.Invalid(path, *seconds, validation.InclusiveRangeError(0, math.MaxInt32))}
	case old != nil && *old < *seconds:
		return field.ErrorList{field.Invalid(path, *seconds, "must be less than or equal to previous value")}
	}
	return nil
}

func validateGatesUpdate(path *field.Path, gates, old []corev1.PodSchedulingGate) field.ErrorList {
	var errs field.ErrorList
	for i, g := range gates {
		if !slices.Contains(old, g) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// validateGatedUpdate: as long as a pod is gated, it may be tied to fewer nodes. It sets back in rest
// what it allows.
func validateGatedUpdate(path *field.Path, rest, old *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for key, value := range old.NodeSelector {
		if is, ok := rest.NodeSelector[key]; !ok || is != value {
			errs = append(errs, field.Invalid(path.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	rest.NodeSelector = old.NodeSelector

	nodeAffinity := func(spec *corev1.PodSpec) *corev1.NodeAffinity {
		if spec.Affinity == nil {
			return nil
		}
		return spec.Affinity.NodeAffinity
	}
	is, was := nodeAffinity(rest), nodeAffinity(old)
	if equality.Semantic.DeepEqual(is, was) {
		return errs
	}
	errs = append(errs, validateNodeAffinityUpdate(path.Child("affinity", "nodeAffinity"), is, was)...)
	switch {
	case rest.Affinity == nil:
		rest.Affinity = &corev1.Affinity{NodeAffinity: was}
	case old.Affinity == nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil:
		rest.Affinity = nil
	default:
		rest.Affinity.NodeAffinity = was
	}
	return errs
}

func validateNodeAffinityUpdate(path *field.Path, affinity, old *corev1.NodeAffinity) field.ErrorList {
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	path = path.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	was := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var is []corev1.NodeSelectorTerm
	if affinity != nil && affinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		is = affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(was) > 0 && len(is) != len(was) {
		return field.ErrorList{field.Invalid(path, is, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range was {
		empty := len(was[i].MatchExpressions) == 0 && len(was[i].MatchFields) == 0
		grew := len(is[i].MatchExpressions) > 0 || len(is[i].MatchFields) > 0
		// An empty term matches no node, so adding to it would widen the choice.
		if empty && grew || !beginsWith(is[i].MatchExpressions, was[i].MatchExpressions) || !beginsWith(is[i].MatchFields, was[i].MatchFields) {
			errs = append(errs, field.Invalid(path.Index(i), is[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func beginsWith(list, start []corev1.NodeSelectorRequirement) bool {
	n := len(start)
	return n == 0 || len(list) >= n && equality.Semantic.DeepEqual(list[:n], start)
}

// checkPodGracefulDelete decides how long a Pod has to end: what the request says, or what the Pod does.
// A Pod that runs nowhere, or has ended, is gone at once.
func checkPodGracefulDelete(pod *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	period := ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, 0)
	if options.GracePeriodSeconds != nil {
		period = *options.GracePeriodSeconds
	}
	ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	switch {
	case pod.Spec.NodeName == "" || ended:
		period = 0
	case period < 0:
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

// podFields are what field selectors of Pods know besides name and namespace.
func podFields(pod *corev1.Pod) fields.Set {
	ip := ""
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// validateBinding checks a request to run a Pod on a node.
func validateBinding(binding *corev1.Binding) field.ErrorList {
	path, target := field.NewPath("target"), binding.Target
	switch {
	case target.Kind != "" && target.Kind != "Node":
		errs := field.ErrorList{field.NotSupported(path.Child("kind"), target.Kind, []string{"Node", "<empty>"})}
		return append(errs, rule.Required(path.Child("name"), target.Name)...)
	case target.Name == "":
		return field.ErrorList{field.Required(path.Child("name"), "")}
	}
	return rule.Name(path.Child("name"), target.Name, apivalidation.NameIsDNSSubdomain)
}

// preparePodEphemeralContainersUpdate keeps everything but the ephemeral containers.
func preparePodEphemeralContainersUpdate(pod, old *corev1.Pod) {
	containers := pod.Spec.EphemeralContainers
	pod.Spec, pod.Status = old.Spec, old.Status
	pod.Spec.EphemeralContainers = containers
	metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
	podspec.DropDisabledPod(pod, old)
	countPodChange(pod, old)
}

// validatePodEphemeralContainersUpdate: ephemeral containers can be added, and stay as they are then.
func validatePodEphemeralContainersUpdate(pod, old *corev1.Pod) field.ErrorList {
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	o := podspec.OptionsForPod(old)
	path := field.NewPath("spec", "ephemeralContainers")
	errs := rule.ObjectMeta(&pod.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidatePod(pod, o)...)
	errs = append(errs, validatePodAnnotationsUpdate(pod, old, o)...)
	for _, was := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(pod.Spec.EphemeralContainers, func(is corev1.EphemeralContainer) bool { return is.Name == was.Name })
		switch {
		case i < 0:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(was, pod.Spec.EphemeralContainers[i]):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(was, pod.Spec.EphemeralContainers[i]))))
		}
	}
	return errs
}

var systemPodConditions = sets.New(corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized)
