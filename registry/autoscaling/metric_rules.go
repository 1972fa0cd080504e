// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// validateMetrics says that who scales to zero pods needs a metric that there is without pods.
func validateMetrics(path *field.Path, spec *autoscalingv2.HorizontalPodAutoscalerSpec, objects refRules) field.ErrorList {
	var errs field.ErrorList
	elsewhere := false
	for i := range spec.Metrics {
		m := &spec.Metrics[i]
		errs = append(errs, validateMetric(path.Index(i), m, objects)...)
		elsewhere = elsewhere || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	return append(errs, rule.If(spec.MinReplicas != nil && *spec.MinReplicas == 0 && !elsewhere,
		field.Forbidden(path, "must specify at least one Object or External metric to support scaling to zero replicas"))...)
}

// validateMetric says that a metric has the one source that its type names. Of several only the first is looked at.
func validateMetric(path *field.Path, m *autoscalingv2.MetricSpec, objects refRules) field.ErrorList {
	errs := rule.If(m.Type == "", field.Required(path.Child("type"), "must specify a metric source type"))
	known, present := false, 0
	var forbidden field.ErrorList
	for _, source := range []struct {
		kind  autoscalingv2.MetricSourceType
		field string
		set   bool
		check func(path *field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(path *field.Path) field.ErrorList { return validateObjectMetric(path, m.Object, objects) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(path *field.Path) field.ErrorList { return validateExternalMetric(path, m.External) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(path *field.Path) field.ErrorList { return validatePodsMetric(path, m.Pods) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(path *field.Path) field.ErrorList {
			errs := rule.If(m.Resource.Name == "", field.Required(path.Child("name"), "must specify a resource name"))
			return append(errs, validateUsage(path.Child("target"), m.Resource.Target)...)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(path *field.Path) field.ErrorList {
			return validateContainerMetric(path, m.ContainerResource)
		}},
	} {
		at := path.Child(source.field)
		if source.set {
			if present++; present == 1 {
				errs = append(errs, source.check(at)...)
			}
		}
		switch {
		case source.kind == m.Type:
			known = true
			errs = append(errs, rule.If(!source.set, field.Required(at, "must populate information for the given metric source"))...)
		case source.set:
			forbidden = append(forbidden, field.Forbidden(at, "must populate the given metric source only"))
		}
	}
	if present != 1 {
		errs = append(errs, forbidden...)
	}
	if known {
		return errs
	}
	return append(errs, rule.Supported(path.Child("type"), m.Type, autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType)...)
}

func validateObjectMetric(path *field.Path, m *autoscalingv2.ObjectMetricSource, objects refRules) field.ErrorList {
	errs := objects.validate(path.Child("describedObject"), m.DescribedObject)
	errs = append(errs, validateMetricName(path, m.Metric)...)
	errs = append(errs, validateTarget(path.Child("target"), m.Target)...)
	return append(errs, rule.If(m.Target.Value == nil && m.Target.AverageValue == nil,
		field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))...)
}

func validateExternalMetric(path *field.Path, m *autoscalingv2.ExternalMetricSource) field.ErrorList {
	target := path.Child("target")
	errs := append(validateMetricName(path, m.Metric), validateTarget(target, m.Target)...)
	errs = append(errs, rule.If(m.Target.Value == nil && m.Target.AverageValue == nil,
		field.Required(target.Child("averageValue"), "must set either a target value for metric or a per-pod target"))...)
	return append(errs, rule.If(m.Target.Value != nil && m.Target.AverageValue != nil,
		field.Forbidden(target.Child("value"), "may not set both a target value for metric and a per-pod target"))...)
}

func validatePodsMetric(path *field.Path, m *autoscalingv2.PodsMetricSource) field.ErrorList {
	target := path.Child("target")
	errs := append(validateMetricName(path, m.Metric), validateTarget(target, m.Target)...)
	return append(errs, rule.If(m.Target.AverageValue == nil, field.Required(target.Child("averageValue"), "must specify a positive target averageValue"))...)
}

func validateContainerMetric(path *field.Path, m *autoscalingv2.ContainerResourceMetricSource) field.ErrorList {
	var errs field.ErrorList
	if m.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	} else {
		errs = append(errs, podspec.ValidateContainerResourceName(path.Child("name"), m.Name)...)
	}
	if m.Container == "" {
		errs = append(errs, field.Required(path.Child("container"), "must specify a container"))
	} else {
		errs = append(errs, rule.DNSLabel(path.Child("container"), m.Container)...)
	}
	return append(errs, validateUsage(path.Child("target"), m.Target)...)
}

// validateUsage checks what is asked for of a resource: an amount or a part of what is requested.
func validateUsage(path *field.Path, t autoscalingv2.MetricTarget) field.ErrorList {
	errs := validateTarget(path, t)
	errs = append(errs, rule.If(t.AverageUtilization == nil && t.AverageValue == nil,
		field.Required(path.Child("averageUtilization"), "must set either a target raw value or a target utilization"))...)
	return append(errs, rule.If(t.AverageUtilization != nil && t.AverageValue != nil,
		field.Forbidden(path.Child("averageValue"), "may not set both a target raw value and a target utilization"))...)
}

func validateTarget(path *field.Path, t autoscalingv2.MetricTarget) field.ErrorList {
	errs := rule.If(t.Type == "", field.Required(path.Child("type"), "must specify a metric target type"))
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	errs = append(errs, rule.If(t.Value != nil && t.Value.Sign() != 1, field.Invalid(path.Child("value"), t.Value, "must be positive"))...)
	errs = append(errs, rule.If(t.AverageValue != nil && t.AverageValue.Sign() != 1, field.Invalid(path.Child("averageValue"), t.AverageValue, "must be positive"))...)
	return append(errs, rule.If(t.AverageUtilization != nil && *t.AverageUtilization < 1,
		field.Invalid(path.Child("averageUtilization"), t.AverageUtilization, "must be greater than 0"))...)
}

func validateMetricName(path *field.Path, m autoscalingv2.MetricIdentifier) field.ErrorList {
	return validateSegment(path.Child("metric", "name"), m.Name, "must specify a metric name")
}
