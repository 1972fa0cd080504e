// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/registry/metrics"
)

// hungry are kubelets whose pods use 64 MiB each.
type hungry struct{ pods corelisters.PodLister }

func (h hungry) Summary(context.Context, string) (*stats.Summary, error) {
	pods, err := h.pods.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	summary := &stats.Summary{}
	start := metav1.NewTime(time.Now().Add(-time.Hour))
	for _, pod := range pods {
		summary.Pods = append(summary.Pods, stats.PodStats{
			PodRef: stats.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)},
			Containers: []stats.ContainerStats{{
				Name: "c", StartTime: start, CPU: &stats.CPUStats{Time: metav1.Now(), UsageCoreNanoSeconds: ptr.To(uint64(time.Now().UnixNano()))},
				Memory: &stats.MemoryStats{Time: metav1.Now(), WorkingSetBytes: ptr.To[uint64](64 << 20)},
			}},
		})
	}
	return summary, nil
}

// What pods use, by the resource metrics API, makes an autoscaler scale their Deployment.
func TestHorizontalPodAutoscaler(t *testing.T) {
	c := serve(t, func(client kubernetes.Interface, cfg *apiserver.Config) {
		factory := informers.NewSharedInformerFactory(client, 0)
		pods := factory.Core().V1().Pods().Lister()
		storages := metrics.Storages(metrics.Deps{Pods: pods, Nodes: factory.Core().V1().Nodes().Lister(), Usage: metrics.NewUsage(hungry{pods})})
		cfg.Reviews[metricsv1.SchemeGroupVersion], cfg.Reviews[metricsv1beta1.SchemeGroupVersion] = storages, storages
		factory.StartWithContext(t.Context())
	})
	t.Cleanup(c.control(c.deps()))
	ctx := t.Context()
	c.namespace("ns")
	node, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.ResourceVersion = "" // the node controllers write to it, too
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	if _, err := c.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.deployment("ns", "web", 2)
	c.wantComplete("ns", "web")
	// Without metrics at its first look, the autoscaler would wait for its next.
	c.eventually("the metrics of both pods", func(ctx context.Context) error {
		raw, err := c.CoreV1().RESTClient().Get().AbsPath("/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods").SetHeader("Accept", "application/json").DoRaw(ctx)
		if err == nil && strings.Count(string(raw), `"usage"`) != 2 {
			err = fmt.Errorf("the API says %s", raw)
		}
		return err
	})

	target := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(32<<20, resource.BinarySI)}
	_, err = c.AutoscalingV2().HorizontalPodAutoscalers("ns").Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MinReplicas:    ptr.To[int32](1), MaxReplicas: 10,
			Metrics: []autoscalingv2.MetricSpec{{
				Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: target},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("the Deployment has twice as many replicas", func(ctx context.Context) error {
		a, err := c.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		d, err := c.AppsV1().Deployments("ns").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if *d.Spec.Replicas != 4 || a.Status.DesiredReplicas != 4 {
			return fmt.Errorf("%d replicas; the autoscaler says %+v", *d.Spec.Replicas, a.Status)
		}
		return nil
	})
	c.wantEvent("HorizontalPodAutoscaler", "SuccessfulRescale", "New size: 4; reason: memory resource above target")
}
