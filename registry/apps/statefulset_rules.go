// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	setDefault(&spec.Replicas, 1)
	setDefault(&spec.RevisionHistoryLimit, defaultHistory)
	if spec.PodManagementPolicy == "" {
		spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	u := &spec.UpdateStrategy
	if u.Type == "" {
		u.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefault(&u.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if u.Type == appsv1.RollingUpdateStatefulSetStrategyType && u.RollingUpdate != nil {
		setDefault(&u.RollingUpdate.Partition, 0)
		setDefault(&u.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	for _, policy := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{
		&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, &spec.PersistentVolumeClaimRetentionPolicy.WhenScaled,
	} {
		if *policy == "" {
			*policy = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	podspec.DefaultTemplate(&spec.Template)
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		if claim.Status.Phase == "" {
			claim.Status.Phase = corev1.ClaimPending
		}
		podspec.DefaultClaimSpec(&claim.Spec)
		podspec.DefaultResourceList(claim.Status.Capacity)
		podspec.DefaultResourceList(claim.Status.AllocatedResources)
	}
}

func prepareStatefulSetCreate(s *appsv1.StatefulSet) {
	podspec.DropDisabledTemplate(&s.Spec.Template, nil)
}

func prepareStatefulSetUpdate(s, old *appsv1.StatefulSet) {
	podspec.DropDisabledTemplate(&s.Spec.Template, &old.Spec.Template)
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.ObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSLabel)
	errs = append(errs, validateStatefulSetSpec(path, &s.Spec, podspec.OptionsForTemplate(nil), true)...)
	for i := range s.Spec.VolumeClaimTemplates {
		at := path.Child("volumeClaimTemplates").Index(i).Child("spec")
		errs = append(errs, podspec.ValidateClaimSpec(at, &s.Spec.VolumeClaimTemplates[i].Spec, podspec.ClaimOptions{})...)
	}
	if name := s.Spec.ServiceName; name != "" {
		errs = append(errs, rule.DNSLabel(path.Child("serviceName"), name)...)
	}
	return errs
}

// validateStatefulSetUpdate does not look at a template in depth if the old one is wrong, since it was
// not always looked at.
func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	o := podspec.OptionsForTemplate(&old.Spec.Template)
	deep := len(validateStatefulSetSpec(nil, &old.Spec, o, true)) == 0
	errs := rule.ObjectMetaUpdate(&s.ObjectMeta)
	errs = append(errs, validateStatefulSetSpec(path, &s.Spec, o, deep)...)
	errs = append(errs, rule.Unchanged(path.Child("selector"), s.Spec.Selector, old.Spec.Selector)...)
	errs = append(errs, rule.Unchanged(path.Child("volumeClaimTemplates"), s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates)...)
	errs = append(errs, rule.Unchanged(path.Child("serviceName"), s.Spec.ServiceName, old.Spec.ServiceName)...)
	return append(errs, rule.Unchanged(path.Child("podManagementPolicy"), s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy)...)
}

// validateStatefulSetSpec checks what holds on create and update. deep looks into the pod template.
func validateStatefulSetSpec(path *field.Path, spec *appsv1.StatefulSetSpec, o podspec.Options, deep bool) field.ErrorList {
	errs := validatePodManagement(path.Child("podManagementPolicy"), spec.PodManagementPolicy)
	errs = append(errs, validateStatefulSetStrategy(path.Child("updateStrategy"), &spec.UpdateStrategy)...)
	if p, at := spec.PersistentVolumeClaimRetentionPolicy, path.Child("persistentVolumeClaimRetentionPolicy"); p != nil {
		for _, policy := range []struct {
			name  string
			value appsv1.PersistentVolumeClaimRetentionPolicyType
		}{{"whenDeleted", p.WhenDeleted}, {"whenScaled", p.WhenScaled}} {
			errs = append(errs, rule.Supported(at.Child(policy.name), policy.value,
				appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
		}
	}
	errs = append(errs, rule.NonNegativeIfSet(path.Child("replicas"), spec.Replicas)...)
	errs = append(errs, rule.NonNegative(path.Child("minReadySeconds"), spec.MinReadySeconds)...)
	if spec.Ordinals != nil {
		errs = append(errs, rule.NonNegative(path.Child("ordinals.start"), spec.Ordinals.Start)...)
	}
	errs = append(errs, validateSelector(path.Child("selector"), spec.Selector, "statefulset", false)...)
	if s, err := metav1.LabelSelectorAsSelector(spec.Selector); err != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), spec.Selector, ""))
	} else {
		at, template := path.Child("template"), claimedTemplate(spec)
		errs = append(errs, validateTemplateLabels(at, s, template)...)
		if deep {
			errs = append(errs, podspec.ValidateTemplate(at, template, o)...)
		}
		errs = append(errs, rule.Labels(at.Child("labels"), template.Labels)...)
		errs = append(errs, rule.Annotations(at.Child("annotations"), template.Annotations)...)
		errs = append(errs, podspec.ValidateAnnotations(at.Child("annotations"), template.Annotations, &template.Spec, o)...)
	}
	return append(errs, validateLastingTemplate(path.Child("template"), &spec.Template, "StatefulSet")...)
}

// claimedTemplate is the template as pods will have it: with the volumes that are made from claims, and
// without names, which the controller gives.
func claimedTemplate(spec *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	template := spec.Template.DeepCopy()
	template.Spec.Hostname, template.Spec.Subdomain = "", ""
	var volumes []corev1.Volume
	claimed := func(name string) bool {
		return slices.ContainsFunc(volumes, func(v corev1.Volume) bool { return v.Name == name })
	}
	for _, claim := range spec.VolumeClaimTemplates {
		if !claimed(claim.Name) {
			source := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}
			volumes = append(volumes, corev1.Volume{Name: claim.Name, VolumeSource: source})
		}
	}
	own := slices.DeleteFunc(template.Spec.Volumes, func(v corev1.Volume) bool { return claimed(v.Name) })
	template.Spec.Volumes = append(volumes, own...)
	return template
}

func validatePodManagement(path *field.Path, policy appsv1.PodManagementPolicyType) field.ErrorList {
	switch policy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
		return nil
	case "":
		return field.ErrorList{field.Required(path, "")}
	}
	return field.ErrorList{field.Invalid(path, policy, fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement))}
}

func validateStatefulSetStrategy(path *field.Path, u *appsv1.StatefulSetUpdateStrategy) field.ErrorList {
	at := path.Child("rollingUpdate")
	switch u.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		return rule.If(u.RollingUpdate != nil, field.Invalid(at, u.RollingUpdate,
			fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType)))
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return field.ErrorList{field.Invalid(path, u, fmt.Sprintf("must be '%s' or '%s'", appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	if u.RollingUpdate == nil {
		return nil
	}
	errs := rule.NonNegativeIfSet(at.Child("partition"), u.RollingUpdate.Partition)
	if n, at := u.RollingUpdate.MaxUnavailable, at.Child("maxUnavailable"); n != nil {
		errs = append(errs, rule.IntOrPercent(at, *n)...)
		errs = append(errs, rule.If(intOrPercent(*n) == 0, field.Invalid(at, *n, "cannot be 0"))...)
		errs = append(errs, rule.AtMostAll(at, *n)...)
	}
	return errs
}

func validateStatefulSetStatusUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	path, st := field.NewPath("status"), &s.Status
	errs := rule.ObjectMetaUpdate(&s.ObjectMeta)
	errs = append(errs, counters{
		{"replicas", int64(st.Replicas)},
		{"readyReplicas", int64(st.ReadyReplicas)},
		{"currentReplicas", int64(st.CurrentReplicas)},
		{"updatedReplicas", int64(st.UpdatedReplicas)},
		{"availableReplicas", int64(st.AvailableReplicas)},
		{"observedGeneration", st.ObservedGeneration},
		{"collisionCount", int64(ptr.Deref(st.CollisionCount, 0))},
	}.validate(path)...)
	errs = append(errs, atMost(path.Child("readyReplicas"), st.ReadyReplicas, st.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("currentReplicas"), st.CurrentReplicas, st.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("updatedReplicas"), st.UpdatedReplicas, st.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("availableReplicas"), st.AvailableReplicas, st.Replicas, moreThanReplicas)...)
	errs = append(errs, atMost(path.Child("availableReplicas"), st.AvailableReplicas, st.ReadyReplicas, "cannot be greater than status.readyReplicas")...)
	return append(errs, validateCollisionCount(path, st.CollisionCount, old.Status.CollisionCount)...)
}

// statefulSetWarnings warn of a new StatefulSet, and again of each change. old is nil on create.
func statefulSetWarnings(s, old *appsv1.StatefulSet) []string {
	var list []string
	if old == nil || s.Generation != old.Generation {
		list = templateWarnings(&s.Spec.Template)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		list = append(list, podspec.ClaimWarnings(field.NewPath("spec", "volumeClaimTemplates").Index(i), &s.Spec.VolumeClaimTemplates[i].Spec)...)
	}
	if ptr.Deref(s.Spec.RevisionHistoryLimit, 0) < 0 {
		list = append(list, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return list
}
