// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-helpers/resource"
)

// ResourcesPath is where kube-scheduler serves what pods ask for: so many lines that they are kept out of the other metrics.
const ResourcesPath = "/metrics/resources"

var resourceLabels = []string{"namespace", "pod", "node", "scheduler", "priority", "resource", "unit"}

// Resources shows what pods that have not ended request, and what they are limited to, as the scheduler counts it.
type Resources struct {
	metrics.BaseStableCollector
	pods             corelisters.PodLister
	requests, limits *metrics.Desc
}

// NewResources makes the metrics of the pods that a lister lists.
func NewResources(pods corelisters.PodLister) *Resources {
	return &Resources{
		pods:     pods,
		requests: metrics.NewDesc("kube_pod_resource_request", "What a pod requests of a resource, as schedulers and kubelets count it.", resourceLabels, nil, metrics.STABLE, ""),
		limits:   metrics.NewDesc("kube_pod_resource_limit", "What a pod may use of a resource, as schedulers and kubelets count it.", resourceLabels, nil, metrics.STABLE, ""),
	}
}

// Handler serves them.
func (r *Resources) Handler() http.Handler {
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(r)
	return metrics.HandlerFor(registry, metrics.HandlerOpts{})
}

func (r *Resources) DescribeWithStability(ch chan<- *metrics.Desc) {
	ch <- r.requests
	ch <- r.limits
}

func (r *Resources) CollectWithStability(ch chan<- metrics.Metric) {
	pods, err := r.pods.List(labels.Everything())
	if err != nil {
		return
	}
	for _, pod := range pods {
		if pod.Spec.NodeName != "" && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
			continue
		}
		tell(ch, r.requests, pod, resource.PodRequests(pod, resource.PodResourcesOptions{}))
		tell(ch, r.limits, pod, resource.PodLimits(pod, resource.PodResourcesOptions{}))
	}
}

func tell(ch chan<- metrics.Metric, desc *metrics.Desc, pod *corev1.Pod, amounts corev1.ResourceList) {
	priority := ""
	if pod.Spec.Priority != nil {
		priority = strconv.Itoa(int(*pod.Spec.Priority))
	}
	for name, amount := range amounts {
		if !amount.IsZero() {
			ch <- metrics.NewLazyConstMetric(desc, metrics.GaugeValue, amount.AsApproximateFloat64(),
				pod.Namespace, pod.Name, pod.Spec.NodeName, pod.Spec.SchedulerName, priority, string(name), unit(name))
		}
	}
}

// unit is what a resource is counted in; empty for those that others have made up.
func unit(name corev1.ResourceName) string {
	switch {
	case name == corev1.ResourceCPU:
		return "cores"
	case name == corev1.ResourceMemory, name == corev1.ResourceStorage, name == corev1.ResourceEphemeralStorage,
		strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		return "bytes"
	case strings.HasPrefix(string(name), corev1.ResourceAttachableVolumesPrefix):
		return "integer"
	}
	return ""
}
