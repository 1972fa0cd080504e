// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// horizontalPodAutoscalerColumns are what kubectl prints, in the order and the words of upstream.
func horizontalPodAutoscalerColumns() []rest.Column[*autoscalingv2.HorizontalPodAutoscaler] {
	type H = *autoscalingv2.HorizontalPodAutoscaler
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}, autoscalingv2.HorizontalPodAutoscalerStatus{}
	most := rest.Number("MaxPods", rest.Doc(spec, "maxReplicas"), func(o H) int32 { return o.Spec.MaxReplicas })
	replicas := rest.Number("Replicas", rest.Doc(status, "currentReplicas"), func(o H) int32 { return o.Status.CurrentReplicas })
	most.Type, replicas.Type = "string", "string"
	return []rest.Column[H]{
		rest.Name[H](),
		rest.Text("Reference", rest.Doc(spec, "scaleTargetRef"), func(o H) string { return o.Spec.ScaleTargetRef.Kind + "/" + o.Spec.ScaleTargetRef.Name }),
		rest.Text("Targets", rest.Doc(spec, "metrics"), targetsCell),
		rest.Text("MinPods", rest.Doc(spec, "minReplicas"), func(o H) string {
			if o.Spec.MinReplicas == nil {
				return "<unset>"
			}
			return fmt.Sprint(*o.Spec.MinReplicas)
		}),
		most,
		replicas,
		rest.Age[H](),
	}
}

// targetsCell shows, metric by metric, what is and what should be.
func targetsCell(o *autoscalingv2.HorizontalPodAutoscaler) string {
	if len(o.Spec.Metrics) == 0 {
		return "<none>"
	}
	var out []string
	for i, m := range o.Spec.Metrics {
		var current autoscalingv2.MetricStatus
		if i < len(o.Status.CurrentMetrics) {
			current = o.Status.CurrentMetrics[i]
		}
		out = append(out, metricCell(m, current))
	}
	text := strings.Join(out[:min(len(out), 2)], ", ")
	if len(out) > 2 {
		text += fmt.Sprintf(" + %d more...", len(out)-2)
	}
	return text
}

func metricCell(m autoscalingv2.MetricSpec, s autoscalingv2.MetricStatus) string {
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		return valueCell(m.External.Target, current(s.External, func(s *autoscalingv2.ExternalMetricStatus) autoscalingv2.MetricValueStatus { return s.Current }))
	case autoscalingv2.ObjectMetricSourceType:
		return valueCell(m.Object.Target, current(s.Object, func(s *autoscalingv2.ObjectMetricStatus) autoscalingv2.MetricValueStatus { return s.Current }))
	case autoscalingv2.PodsMetricSourceType:
		is := current(s.Pods, func(s *autoscalingv2.PodsMetricStatus) autoscalingv2.MetricValueStatus { return s.Current })
		return quantityCell(is.AverageValue) + "/" + quantityCell(m.Pods.Target.AverageValue)
	case autoscalingv2.ResourceMetricSourceType:
		is := current(s.Resource, func(s *autoscalingv2.ResourceMetricStatus) autoscalingv2.MetricValueStatus { return s.Current })
		return string(m.Resource.Name) + ": " + utilizationCell(m.Resource.Target, is)
	case autoscalingv2.ContainerResourceMetricSourceType:
		is := current(s.ContainerResource, func(s *autoscalingv2.ContainerResourceMetricStatus) autoscalingv2.MetricValueStatus { return s.Current })
		return string(m.ContainerResource.Name) + ": " + utilizationCell(m.ContainerResource.Target, is)
	}
	return "<unknown type>"
}

// current is the value in a status that may not be there yet.
func current[S any](status *S, value func(*S) autoscalingv2.MetricValueStatus) autoscalingv2.MetricValueStatus {
	if status == nil {
		return autoscalingv2.MetricValueStatus{}
	}
	return value(status)
}

func valueCell(target autoscalingv2.MetricTarget, is autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantityCell(is.AverageValue) + "/" + quantityCell(target.AverageValue) + " (avg)"
	}
	return quantityCell(is.Value) + "/" + quantityCell(target.Value)
}

func utilizationCell(target autoscalingv2.MetricTarget, is autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return quantityCell(is.AverageValue) + "/" + quantityCell(target.AverageValue)
	}
	return percentCell(is.AverageUtilization, "<unknown>") + "/" + percentCell(target.AverageUtilization, "<auto>")
}

func quantityCell(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}

func percentCell(n *int32, unset string) string {
	if n == nil {
		return unset
	}
	return fmt.Sprintf("%d%%", *n)
}
