// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"

	"github.com/skiff-k8s/skiff/controllers"
)

// What controllers do is measured by upstream's names.
func TestControllersAreMeasured(t *testing.T) {
	registry := metrics.NewKubeRegistry()
	c := newClusterWith(t, func(deps *controllers.Deps) { deps.Metrics = registry })
	c.namespace("ns")
	c.job("sum", func(*batchv1.JobSpec) {})
	for _, pod := range c.active(2) {
		c.exit(&pod, 0)
	}
	c.wantEnd("sum", "SuccessCriteriaMet:CompletionsReached", "Complete:CompletionsReached")
	_, err := c.AutoscalingV2().HorizontalPodAutoscalers("ns").Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "lost"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "none"}, MaxReplicas: 2},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.wantEvent("HorizontalPodAutoscaler", "FailedGetScale", "")
	c.eventually("all is counted", func(context.Context) error {
		got := values(t, registry)
		for _, want := range []string{
			`job_controller_jobs_finished_total completion_mode=NonIndexed reason=CompletionsReached result=succeeded 1`,
			`job_controller_job_pods_finished_total completion_mode=NonIndexed result=succeeded 2`,
			`job_controller_job_pods_creation_total reason=new status=succeeded 2`,
			`job_controller_terminated_pods_tracking_finalizer_total event=add 2`,
			`job_controller_terminated_pods_tracking_finalizer_total event=delete 2`,
			`horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers 1`,
			`horizontal_pod_autoscaler_controller_reconciliations_total action=none error=internal 1`,
			`node_ipam_controller_cirdset_max_cidrs clusterCIDR=10.42.0.0/16 256`,
		} {
			if !slices.Contains(got, want) {
				return fmt.Errorf("%s is not among %s", want, strings.Join(got, "\n"))
			}
		}
		return nil
	})
}

// values returns counters and gauges with their labels.
func values(t *testing.T, registry metrics.KubeRegistry) (out []string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if m.Histogram != nil {
				continue
			}
			line := f.GetName()
			for _, label := range m.Label {
				line += fmt.Sprintf(" %s=%s", label.GetName(), label.GetValue())
			}
			out = append(out, fmt.Sprintf("%s %v", line, m.GetCounter().GetValue()+m.GetGauge().GetValue()))
		}
	}
	return out
}
