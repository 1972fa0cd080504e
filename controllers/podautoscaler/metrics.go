// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	restclient "k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	custommetrics "k8s.io/metrics/pkg/client/custom_metrics"
	externalmetrics "k8s.io/metrics/pkg/client/external_metrics"
)

// Metrics is where values come from, in thousandths.
type Metrics interface {
	// Resource is what the selected pods use of a resource; in one container, or in all if it is "".
	Resource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) (Samples, error)
	// Pods is a metric of the selected pods.
	Pods(ctx context.Context, namespace string, pods labels.Selector, metric string, selector labels.Selector) (Samples, error)
	// Object is a metric of one object.
	Object(ctx context.Context, namespace string, object autoscalingv2.CrossVersionObjectReference, metric string, selector labels.Selector) (int64, error)
	// External is the sum of the values of a metric from outside.
	External(ctx context.Context, namespace, metric string, selector labels.Selector) (int64, error)
}

// usualWindow is that of custom metrics that do not tell theirs.
const usualWindow = time.Minute

// apis asks the metrics APIs of the cluster: the first is built in, the others come with what users install.
type apis struct {
	resource metricsclient.MetricsV1beta1Interface
	custom   custommetrics.CustomMetricsClient
	external externalmetrics.ExternalMetricsClient
}

// NewMetrics returns the metrics APIs of a cluster.
func NewMetrics(config *restclient.Config, disco discovery.DiscoveryInterface, mapper meta.RESTMapper) (Metrics, error) {
	resource, err := metricsclient.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make the client of resource metrics: %w", err)
	}
	external, err := externalmetrics.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make the client of external metrics: %w", err)
	}
	custom := custommetrics.NewForConfig(config, mapper, custommetrics.NewAvailableAPIsGetter(disco))
	return &apis{resource, custom, external}, nil
}

func (a *apis) Resource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) (Samples, error) {
	list, err := a.resource.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: pods.String()})
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	out := Samples{}
	for i := range list.Items {
		m := &list.Items[i]
		if used, ok := usage(m, name, container); ok {
			out[m.Name] = Sample{used, m.Timestamp.Time, m.Window.Duration}
		}
	}
	return out, nil
}

// usage adds up what the containers use. A pod of which something is not known is left out.
func usage(m *metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (total int64, ok bool) {
	for _, c := range m.Containers {
		if container != "" && container != c.Name {
			continue
		}
		used, known := c.Usage[name]
		if !known {
			return 0, false
		}
		total, ok = total+used.MilliValue(), true
	}
	return total, ok
}

func (a *apis) Pods(_ context.Context, namespace string, pods labels.Selector, metric string, selector labels.Selector) (Samples, error) {
	list, err := a.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, pods, metric, selector)
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	out := Samples{}
	for _, m := range list.Items {
		window := usualWindow
		if m.WindowSeconds != nil {
			window = time.Duration(*m.WindowSeconds) * time.Second
		}
		out[m.DescribedObject.Name] = Sample{m.Value.MilliValue(), m.Timestamp.Time, window}
	}
	return out, nil
}

func (a *apis) Object(_ context.Context, namespace string, object autoscalingv2.CrossVersionObjectReference, metric string, selector labels.Selector) (int64, error) {
	kind := schema.FromAPIVersionAndKind(object.APIVersion, object.Kind).GroupKind()
	metrics, name := a.custom.NamespacedMetrics(namespace), object.Name
	if kind.Kind == "Namespace" && kind.Group == "" {
		metrics, name = a.custom.RootScopedMetrics(), namespace // never another one
	}
	value, err := metrics.GetForObject(kind, name, metric, selector)
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return value.Value.MilliValue(), nil
}

func (a *apis) External(_ context.Context, namespace, metric string, selector labels.Selector) (int64, error) {
	list, err := a.external.NamespacedMetrics(namespace).List(metric, selector)
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return 0, errors.New("no metrics returned from external metrics API")
	}
	total := int64(0)
	for _, m := range list.Items {
		value := m.Value.MilliValue()
		if value > 0 && total > math.MaxInt64-value {
			return math.MaxInt64, nil
		}
		total += value
	}
	return total, nil
}
