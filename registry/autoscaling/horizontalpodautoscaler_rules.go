// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxPeriod          = 1800 // seconds
	maxStabilization   = 3600 // seconds
	defaultUtilization = 80   // percent
)

func setDefault[T any](p **T, value T) {
	if *p == nil {
		*p = &value
	}
}

func defaultHorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	setDefault(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultUtilization)}
	}
	b := h.Spec.Behavior
	if b == nil {
		return
	}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	defaultScaling(&b.ScaleUp, pods, percent)
	setDefault(&b.ScaleUp.StabilizationWindowSeconds, 0)
	defaultScaling(&b.ScaleDown, percent) // the window is a setting of the controller
}

func defaultScaling(r **autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) {
	setDefault(r, autoscalingv2.HPAScalingRules{})
	setDefault(&(*r).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*r).Policies == nil {
		(*r).Policies = policies
	}
}

// cpuMetric asks for a percentage of the CPU that pods request.
func cpuMetric(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

// refRules say what the apiVersion of a reference may be.
type refRules struct{ anyVersion, core bool }

func validateHorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs := rule.ObjectMeta(&h.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, validateAutoscalerSpec(&h.Spec, nil)...)
}

func validateHorizontalPodAutoscalerUpdate(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return append(rule.ObjectMetaUpdate(&h.ObjectMeta), validateAutoscalerSpec(&h.Spec, &old.Spec)...)
}

func validateAutoscalerSpec(spec, old *autoscalingv2.HorizontalPodAutoscalerSpec) field.ErrorList {
	path := field.NewPath("spec")
	least, most := ptr.Deref(spec.MinReplicas, 0), path.Child("maxReplicas")
	errs := rule.If(least < 0, field.Invalid(path.Child("minReplicas"), least, "must be greater than or equal to 0"))
	if spec.MaxReplicas == 0 {
		errs = append(errs, field.Required(most, ""))
	}
	errs = append(errs, rule.If(spec.MaxReplicas < 0, field.Invalid(most, spec.MaxReplicas, "must be greater than or equal to 1"))...)
	errs = append(errs, rule.If(spec.MinReplicas != nil && spec.MaxReplicas < least,
		field.Invalid(most, spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))...)
	target := refRules{
		anyVersion: old != nil && old.ScaleTargetRef.APIVersion == spec.ScaleTargetRef.APIVersion && old.ScaleTargetRef.Kind == spec.ScaleTargetRef.Kind,
		core:       spec.ScaleTargetRef.Kind == "ReplicationController",
	}
	errs = append(errs, target.validate(path.Child("scaleTargetRef"), spec.ScaleTargetRef)...)
	errs = append(errs, validateMetrics(path.Child("metrics"), spec, described(old))...)
	if b := spec.Behavior; b != nil {
		errs = append(errs, validateScaling(path.Child("behavior", "scaleUp"), b.ScaleUp)...)
		errs = append(errs, validateScaling(path.Child("behavior", "scaleDown"), b.ScaleDown)...)
	}
	return errs
}

// described tells what objects metrics may describe: those of a version that is none stay.
func described(old *autoscalingv2.HorizontalPodAutoscalerSpec) refRules {
	rules := refRules{core: true}
	rules.anyVersion = old != nil && slices.ContainsFunc(old.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && rules.versionError(m.Object.DescribedObject.APIVersion) != nil
	})
	return rules
}

func (r refRules) validate(path *field.Path, ref autoscalingv2.CrossVersionObjectReference) field.ErrorList {
	errs := append(validateSegment(path.Child("kind"), ref.Kind, ""), validateSegment(path.Child("name"), ref.Name, "")...)
	if err := r.versionError(ref.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

func (r refRules) versionError(version string) error {
	if r.anyVersion {
		return nil
	}
	gv, err := schema.ParseGroupVersion(version)
	if err == nil && gv.Group == "" && !r.core {
		return errors.New("apiVersion must specify API group")
	}
	return err
}

// validateSegment says that a string must be there and must fit into a path.
func validateSegment(path *field.Path, s, required string) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(path, required)}
	}
	return rule.Invalid(path, s, content.IsPathSegmentName(s))
}

func validateScaling(path *field.Path, r *autoscalingv2.HPAScalingRules) field.ErrorList {
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if n, at := r.StabilizationWindowSeconds, path.Child("stabilizationWindowSeconds"); n != nil {
		errs = append(errs, rule.If(*n < 0, field.Invalid(at, n, "must be greater than or equal to zero"))...)
		errs = append(errs, rule.If(*n > maxStabilization, field.Invalid(at, n, fmt.Sprintf("must be less than or equal to %v", maxStabilization)))...)
	}
	errs = append(errs, rule.SupportedIfSet(path.Child("selectPolicy"), r.SelectPolicy,
		autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	policies := path.Child("policies")
	errs = append(errs, rule.If(len(r.Policies) == 0, field.Required(policies, "must specify at least one Policy"))...)
	for i, p := range r.Policies {
		at := policies.Index(i)
		errs = append(errs, rule.Supported(at.Child("type"), p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		errs = append(errs, rule.Positive(at.Child("value"), p.Value)...)
		errs = append(errs, rule.Positive(at.Child("periodSeconds"), p.PeriodSeconds)...)
		errs = append(errs, rule.If(p.PeriodSeconds > maxPeriod,
			field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPeriod)))...)
	}
	if r.Tolerance != nil {
		errs = append(errs, podspec.ValidateNonNegativeQuantity(path.Child("tolerance"), *r.Tolerance)...)
	}
	return errs
}

func validateHorizontalPodAutoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	errs, path := rule.ObjectMetaUpdate(&h.ObjectMeta), field.NewPath("status")
	for i, c := range h.Status.Conditions {
		errs = append(errs, rule.NonNegativeIfSet(path.Child("conditions").Index(i).Child("observedGeneration"), c.ObservedGeneration)...)
	}
	errs = append(errs, rule.NonNegative(path.Child("currentReplicas"), h.Status.CurrentReplicas)...)
	return append(errs, rule.NonNegative(path.Child("desiredReplicas"), h.Status.DesiredReplicas)...)
}
