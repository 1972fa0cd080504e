// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/utils/ptr"

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
	_, err = c.AppsV1().StatefulSets("ns").Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template:             corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claimSpec("none")}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.CoreV1().Services("ns").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
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
			`statefulset_controller_statefulset_max_unavailable pod_management_policy=OrderedReady statefulset_name=db statefulset_namespace=ns 1`,
			`statefulset_controller_statefulset_unavailable_replicas pod_management_policy=OrderedReady statefulset_name=db statefulset_namespace=ns 2`,
			`pv_collector_unbound_pvc_count namespace=ns storage_class=none volume_attributes_class= 1`,
			`running_managed_controllers manager=kube-controller-manager name=nodeipam 1`,
			`node_ipam_controller_cirdset_max_cidrs clusterCIDR=10.42.0.0/16 256`,
		} {
			if !slices.Contains(got, want) {
				return fmt.Errorf("%s is not among %s", want, strings.Join(got, "\n"))
			}
		}
		for _, want := range []string{ // of libraries, which count what all clusters of this test do
			`endpoint_slice_controller_syncs result=success `,
			`endpoint_slice_controller_changes operation=create `,
			`endpoint_slice_controller_num_endpoint_slices `,
		} {
			if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, want) }) {
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
