// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"encoding/json"
	"fmt"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// autoscaling/v1 knows one metric, CPU. What else a HorizontalPodAutoscaler has stands in annotations there.
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	upAnnotation             = "autoscaling.alpha.kubernetes.io/scale-up-tolerance"
	downAnnotation           = "autoscaling.alpha.kubernetes.io/scale-down-tolerance"
)

// AddVersion1 adds autoscaling/v1: Scale, whose only version it is, and the first face of HorizontalPodAutoscaler.
func AddVersion1(scheme *runtime.Scheme) error {
	if err := autoscalingv1.AddToScheme(scheme); err != nil {
		return err
	}
	internal := schema.GroupVersion{Group: autoscalingv1.GroupName, Version: runtime.APIVersionInternal}
	scheme.AddKnownTypes(internal, &autoscalingv1.Scale{})
	scheme.AddTypeDefaultingFunc(&autoscalingv1.HorizontalPodAutoscaler{}, func(o any) {
		setDefault(&o.(*autoscalingv1.HorizontalPodAutoscaler).Spec.MinReplicas, 1)
	})
	for _, c := range []struct {
		from, to any
		convert  conversion.ConversionFunc
	}{
		{(*autoscalingv1.HorizontalPodAutoscaler)(nil), (*autoscalingv2.HorizontalPodAutoscaler)(nil), func(a, b any, _ conversion.Scope) error {
			toHub(a.(*autoscalingv1.HorizontalPodAutoscaler), b.(*autoscalingv2.HorizontalPodAutoscaler))
			return nil
		}},
		{(*autoscalingv2.HorizontalPodAutoscaler)(nil), (*autoscalingv1.HorizontalPodAutoscaler)(nil), func(a, b any, _ conversion.Scope) error {
			return fromHub(a.(*autoscalingv2.HorizontalPodAutoscaler), b.(*autoscalingv1.HorizontalPodAutoscaler))
		}},
		{(*autoscalingv1.HorizontalPodAutoscalerList)(nil), (*autoscalingv2.HorizontalPodAutoscalerList)(nil), func(a, b any, _ conversion.Scope) error {
			in, out := a.(*autoscalingv1.HorizontalPodAutoscalerList), b.(*autoscalingv2.HorizontalPodAutoscalerList)
			out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv2.HorizontalPodAutoscaler, len(in.Items))
			for i := range in.Items {
				toHub(&in.Items[i], &out.Items[i])
			}
			return nil
		}},
		{(*autoscalingv2.HorizontalPodAutoscalerList)(nil), (*autoscalingv1.HorizontalPodAutoscalerList)(nil), func(a, b any, _ conversion.Scope) error {
			in, out := a.(*autoscalingv2.HorizontalPodAutoscalerList), b.(*autoscalingv1.HorizontalPodAutoscalerList)
			out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv1.HorizontalPodAutoscaler, len(in.Items))
			for i := range in.Items {
				if err := fromHub(&in.Items[i], &out.Items[i]); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		if err := scheme.AddConversionFunc(c.from, c.to, c.convert); err != nil {
			return err
		}
	}
	return nil
}

// withoutOwn are the annotations of an object that version 1 does not use.
func withoutOwn(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	for _, own := range []string{metricsAnnotation, behaviorAnnotation, currentMetricsAnnotation, conditionsAnnotation, upAnnotation, downAnnotation} {
		delete(out, own)
	}
	return out
}

func toHub(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscaler) {
	*out = autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Annotations = withoutOwn(in.Annotations)
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	var metrics []autoscalingv1.MetricSpec
	if annotated(in, metricsAnnotation, &metrics) {
		for _, m := range metrics {
			out.Spec.Metrics = append(out.Spec.Metrics, metricFrom(m))
		}
	}
	if percent := in.Spec.TargetCPUUtilizationPercentage; percent != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, cpuMetric(*percent))
	}
	if len(out.Spec.Metrics) == 0 {
		out.Spec.Metrics = []autoscalingv2.MetricSpec{cpuMetric(defaultUtilization)}
	}
	var b autoscalingv2.HorizontalPodAutoscalerBehavior // JSON is read whatever the case of its names
	if annotated(in, behaviorAnnotation, &b) && b != (autoscalingv2.HorizontalPodAutoscalerBehavior{}) {
		out.Spec.Behavior = &b
	}
	statusToHub(in, &out.Status)
}

func statusToHub(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscalerStatus) {
	s := &in.Status
	*out = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: s.ObservedGeneration, LastScaleTime: s.LastScaleTime,
		CurrentReplicas: s.CurrentReplicas, DesiredReplicas: s.DesiredReplicas,
	}
	if percent := s.CurrentCPUUtilizationPercentage; percent != nil {
		out.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: percent},
		}}}
	}
	var metrics []autoscalingv1.MetricStatus
	if annotated(in, currentMetricsAnnotation, &metrics) { // which says more than the percentage
		out.CurrentMetrics = make([]autoscalingv2.MetricStatus, len(metrics))
		for i, m := range metrics {
			out.CurrentMetrics[i] = statusFrom(m)
		}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	if annotated(in, conditionsAnnotation, &conditions) {
		out.Conditions = make([]autoscalingv2.HorizontalPodAutoscalerCondition, len(conditions))
		for i, c := range conditions {
			out.Conditions[i] = conditionFrom(c)
		}
	}
}

// annotated reads an annotation; one that cannot be read is as good as none.
func annotated(in *autoscalingv1.HorizontalPodAutoscaler, key string, into any) bool {
	text, ok := in.Annotations[key]
	return ok && json.Unmarshal([]byte(text), into) == nil
}

func fromHub(in *autoscalingv2.HorizontalPodAutoscaler, out *autoscalingv1.HorizontalPodAutoscaler) error {
	*out = autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: in.ObjectMeta}
	out.Annotations = withoutOwn(in.Annotations)
	annotate := func(key string, value any, n int) error {
		if n == 0 {
			return nil
		}
		content, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("write annotation %s: %w", key, err)
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[key] = string(content)
		return nil
	}
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	var metrics []autoscalingv1.MetricSpec
	for _, m := range in.Spec.Metrics {
		if !isUtilization(m) {
			metrics = append(metrics, metricTo(m))
		} else if out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	s := &in.Status
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: s.ObservedGeneration, LastScaleTime: s.LastScaleTime,
		CurrentReplicas: s.CurrentReplicas, DesiredReplicas: s.DesiredReplicas,
	}
	var statuses []autoscalingv1.MetricStatus
	for _, m := range s.CurrentMetrics {
		statuses = append(statuses, statusTo(m))
		if r := m.Resource; m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range s.Conditions {
		conditions = append(conditions, conditionTo(c))
	}
	if err := annotate(metricsAnnotation, metrics, len(metrics)); err != nil {
		return err
	}
	if err := annotate(currentMetricsAnnotation, statuses, len(statuses)); err != nil {
		return err
	}
	if err := annotate(conditionsAnnotation, conditions, len(conditions)); err != nil {
		return err
	}
	if in.Spec.Behavior == nil {
		return nil
	}
	return annotate(behaviorAnnotation, behaviorTo(in.Spec.Behavior), 1)
}

// isUtilization tells whether a metric is the one of version 1.
func isUtilization(m autoscalingv2.MetricSpec) bool {
	r := m.Resource
	return m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU && r.Target.AverageUtilization != nil
}

// behavior is how the annotation has it: by Go's names of the fields, of which none is left out.
type (
	behavior struct{ ScaleUp, ScaleDown *scaling }
	scaling  struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []policy
		Tolerance                  *resource.Quantity
	}
	policy struct {
		Type                 autoscalingv2.HPAScalingPolicyType
		Value, PeriodSeconds int32
	}
)

func behaviorTo(b *autoscalingv2.HorizontalPodAutoscalerBehavior) behavior {
	return behavior{scalingTo(b.ScaleUp), scalingTo(b.ScaleDown)}
}

func scalingTo(r *autoscalingv2.HPAScalingRules) *scaling {
	if r == nil {
		return nil
	}
	out := &scaling{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	if r.Policies != nil {
		out.Policies = make([]policy, len(r.Policies))
	}
	for i, p := range r.Policies {
		out.Policies[i] = policy(p)
	}
	return out
}
