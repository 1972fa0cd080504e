// SPDX-License-Identifier: Apache-2.0

package autoscaling

import (
	"encoding/json"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"
)

// What version 2 says comes back through version 1, which shows the rest in annotations.
func TestVersion1CarriesVersion2(t *testing.T) {
	for name, c := range map[string]struct {
		hub         string
		target      int32 // of the CPU, 0: none
		annotations map[string]string
	}{
		"CPU utilization": {
			hub:    `{spec: {maxReplicas: 3, scaleTargetRef: {kind: A, name: a}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}`,
			target: 50,
		},
		"memory and CPU": {
			hub: `{metadata: {annotations: {mine: "1"}}, spec: {maxReplicas: 3, scaleTargetRef: {kind: A, name: a}, metrics: [
				{type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}},
				{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]}}`,
			target: 50,
			annotations: map[string]string{
				"mine":            "1",
				metricsAnnotation: `[{"type":"Resource","resource":{"name":"memory","targetAverageValue":"1Gi"}}]`,
			},
		},
		"the other sources": {
			hub: `{spec: {maxReplicas: 3, scaleTargetRef: {kind: A, name: a}, metrics: [
				{type: Object, object: {describedObject: {kind: B, name: b}, metric: {name: m}, target: {type: AverageValue, averageValue: 3}}},
				{type: Pods, pods: {metric: {name: m, selector: {matchLabels: {a: b}}}, target: {type: AverageValue, averageValue: 3}}},
				{type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 7}}},
				{type: External, external: {metric: {name: m}, target: {type: Value, value: 3}}}]}}`,
			annotations: map[string]string{metricsAnnotation: `[{"type":"Object","object":{"target":{"kind":"B","name":"b"},"metricName":"m","targetValue":"0","averageValue":"3"}},` +
				`{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"3","selector":{"matchLabels":{"a":"b"}}}},` +
				`{"type":"ContainerResource","containerResource":{"name":"cpu","targetAverageUtilization":7,"container":"c"}},` +
				`{"type":"External","external":{"metricName":"m","targetValue":"3"}}]`},
		},
		"behavior and status": {
			hub: `{spec: {maxReplicas: 3, scaleTargetRef: {kind: A, name: a}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}],
				behavior: {scaleUp: {stabilizationWindowSeconds: 5, selectPolicy: Max, policies: [{type: Pods, value: 4, periodSeconds: 15}]}}},
				status: {currentReplicas: 1, desiredReplicas: 2, conditions: [{type: AbleToScale, status: "True", lastTransitionTime: null}],
				currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 9, averageValue: 3m}}}]}}`,
			target: 50,
			annotations: map[string]string{
				behaviorAnnotation:       `{"ScaleUp":{"StabilizationWindowSeconds":5,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":null},"ScaleDown":null}`,
				conditionsAnnotation:     `[{"type":"AbleToScale","status":"True","lastTransitionTime":null}]`,
				currentMetricsAnnotation: `[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":9,"currentAverageValue":"3m"}}]`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var hub, back autoscalingv2.HorizontalPodAutoscaler
			if err := yaml.UnmarshalStrict([]byte(c.hub), &hub); err != nil {
				t.Fatal(err)
			}
			var old autoscalingv1.HorizontalPodAutoscaler
			if err := fromHub(&hub, &old); err != nil {
				t.Fatal(err)
			}
			if got := old.Spec.TargetCPUUtilizationPercentage; (got == nil) != (c.target == 0) || got != nil && *got != c.target {
				t.Errorf("targetCPUUtilizationPercentage = %v, want %d", got, c.target)
			}
			if !equality.Semantic.DeepEqual(old.Annotations, c.annotations) {
				t.Errorf("annotations = %q\nwant %q", old.Annotations, c.annotations)
			}
			toHub(&old, &back)
			if !equality.Semantic.DeepEqual(hub, back) {
				got, _ := json.Marshal(back)
				want, _ := json.Marshal(hub)
				t.Errorf("came back as %s\nwant %s", got, want)
			}
		})
	}
}

// Version 1 has always meant 80 % of the CPU if it said nothing, whatever nonsense is in its annotations.
func TestVersion1Default(t *testing.T) {
	old := autoscalingv1.HorizontalPodAutoscaler{}
	old.Annotations = map[string]string{metricsAnnotation: "{", behaviorAnnotation: "7"}
	var hub autoscalingv2.HorizontalPodAutoscaler
	toHub(&old, &hub)
	if len(hub.Spec.Metrics) != 1 || *hub.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 || hub.Spec.Behavior != nil || len(hub.Annotations) != 0 {
		t.Errorf("spec %+v, annotations %v; want 80 %% of the CPU and nothing else", hub.Spec, hub.Annotations)
	}
	if len(old.Annotations) != 2 {
		t.Error("the conversion has written into the object it was given")
	}
}
