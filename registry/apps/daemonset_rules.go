// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultDaemonSet(d *appsv1.DaemonSet) {
	setDefault(&d.Spec.RevisionHistoryLimit, defaultHistory)
	s := &d.Spec.UpdateStrategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if s.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefault(&s.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefault(&s.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setDefault(&s.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	podspec.DefaultTemplate(&d.Spec.Template)
}

// prepareDaemonSetCreate also starts the count of templates, which was a field once and is an annotation.
func prepareDaemonSetCreate(d *appsv1.DaemonSet) {
	podspec.DropDisabledTemplate(&d.Spec.Template, nil)
	setTemplateGeneration(d, max(templateGeneration(d), 1))
}

func prepareDaemonSetUpdate(d, old *appsv1.DaemonSet) {
	podspec.DropDisabledTemplate(&d.Spec.Template, &old.Spec.Template)
	n := templateGeneration(old)
	if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	errs := rule.ObjectMeta(&d.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateDaemonSetSpec(&d.Spec, podspec.OptionsForTemplate(nil), false)...)
}

func validateDaemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	o := podspec.OptionsForTemplate(&old.Spec.Template)
	tolerant := o.InvalidAffinitySelector || metavalidation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
	errs := rule.ObjectMetaUpdate(&d.ObjectMeta)
	errs = append(errs, validateDaemonSetSpec(&d.Spec, o, tolerant)...)
	return append(errs, rule.Unchanged(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)...)
}

func validateDaemonSetSpec(spec *appsv1.DaemonSetSpec, o podspec.Options, tolerant bool) field.ErrorList {
	path := field.NewPath("spec")
	template := path.Child("template")
	errs := rule.LabelSelector(path.Child("selector"), spec.Selector, tolerant)
	if s, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !s.Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), spec.Template.Labels, selectorMismatch))
	}
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), s, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, podspec.ValidateTemplate(template, &spec.Template, o)...)
	errs = append(errs, validateLastingTemplate(template, &spec.Template, "DaemonSet")...)
	errs = append(errs, rule.NonNegative(path.Child("minReadySeconds"), spec.MinReadySeconds)...)
	errs = append(errs, validateDaemonSetStrategy(path.Child("updateStrategy"), &spec.UpdateStrategy)...)
	return append(errs, rule.NonNegativeIfSet(path.Child("revisionHistoryLimit"), spec.RevisionHistoryLimit)...)
}

func validateDaemonSetStrategy(path *field.Path, s *appsv1.DaemonSetUpdateStrategy) field.ErrorList {
	switch {
	case s.Type == appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case s.Type != appsv1.RollingUpdateDaemonSetStrategyType:
		return field.ErrorList{field.NotSupported(path, s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
	case s.RollingUpdate == nil:
		return field.ErrorList{field.Required(path.Child("rollingUpdate"), "")}
	}
	unavailable, surge := ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{})
	down, up := path.Child("rollingUpdate", "maxUnavailable"), path.Child("rollingUpdate", "maxSurge")
	errs := rule.IntOrPercent(down, unavailable)
	errs = append(errs, rule.IntOrPercent(up, surge)...)
	errs = append(errs, rule.AtMostAll(down, unavailable)...)
	errs = append(errs, rule.AtMostAll(up, surge)...)
	// One of them says how pods are replaced: the old one goes first, or the new one comes first.
	switch isDown, isUp := intOrPercent(unavailable) != 0, intOrPercent(surge) != 0; {
	case isDown && isUp:
		errs = append(errs, field.Invalid(up, surge, "may not be set when maxUnavailable is non-zero"))
	case !isDown && !isUp:
		errs = append(errs, field.Required(down, "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetStatusUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	errs := rule.ObjectMetaUpdate(&d.ObjectMeta)
	errs = append(errs, counters{
		{"currentNumberScheduled", int64(s.CurrentNumberScheduled)},
		{"numberMisscheduled", int64(s.NumberMisscheduled)},
		{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)},
		{"numberReady", int64(s.NumberReady)},
		{"observedGeneration", s.ObservedGeneration},
		{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)},
		{"numberAvailable", int64(s.NumberAvailable)},
		{"numberUnavailable", int64(s.NumberUnavailable)},
		{"collisionCount", int64(ptr.Deref(s.CollisionCount, 0))},
	}.validate(path)...)
	return append(errs, validateCollisionCount(path, s.CollisionCount, old.Status.CollisionCount)...)
}

// daemonSetWarnings warn of a new template. old is nil on create.
func daemonSetWarnings(d, old *appsv1.DaemonSet) []string {
	if old != nil && templateGeneration(d) == templateGeneration(old) {
		return nil
	}
	return templateWarnings(&d.Spec.Template)
}
