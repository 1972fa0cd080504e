// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// decision is what is to be done with a target.
type decision struct {
	replicas  int32
	reason    string // why they differ from the current ones
	metrics   []autoscalingv2.MetricStatus
	undecided bool // the target stays as it is, and nobody knows whether that is right
}

// decide finds out how many replicas there should be. It may return an error besides a decision: some metrics
// could not be had, and the others suffice.
func (c *controller) decide(ctx context.Context, a *autoscaler, s *autoscalingv1.Scale) (decision, error) {
	current, least := s.Spec.Replicas, a.minReplicas()
	switch {
	case current == 0 && !a.mayWake():
		a.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return decision{}, nil
	case current == 0:
	case current > a.Spec.MaxReplicas:
		return decision{replicas: a.Spec.MaxReplicas, reason: "Current number of replicas above Spec.MaxReplicas"}, nil
	case current < least:
		return decision{replicas: least, reason: "Current number of replicas below Spec.MinReplicas"}, nil
	}
	proposal, statuses, err := c.consult(ctx, a, s)
	if proposal == nil {
		return decision{metrics: statuses, undecided: true}, err
	}
	d := decision{replicas: proposal.replicas, metrics: statuses}
	switch {
	case d.replicas > current:
		d.reason = proposal.metric + " above target"
	case d.replicas < current:
		d.reason = "All metrics below target"
	}
	d.replicas = a.limit(current, d.replicas)
	if current == 0 && d.replicas < least && a.isScaledToZero() {
		d.replicas = least
		if d.reason == "" {
			d.reason = "Current number of replicas below Spec.MinReplicas"
		}
	}
	return d, err
}

// mayWake tells whether a target without replicas is to get some: only if it was an autoscaler that took them away,
// and there is a way to know that they are needed again.
func (a *autoscaler) mayWake() bool {
	return a.isScaledToZero() && (a.minReplicas() != 0 || a.knowsMoreThanPods())
}

func (a *autoscaler) isScaledToZero() bool {
	condition := a.condition(autoscalingv2.ScaledToZero)
	return condition != nil && condition.Status == corev1.ConditionTrue
}

// knowsMoreThanPods tells whether some metric says something even without pods.
func (a *autoscaler) knowsMoreThanPods() bool {
	for _, metric := range a.Spec.Metrics {
		if metric.Type == autoscalingv2.ObjectMetricSourceType || metric.Type == autoscalingv2.ExternalMetricSourceType {
			return true
		}
	}
	return false
}

// proposal is what a metric would like.
type proposal struct {
	replicas int32
	metric   string
}

// consult asks all metrics; the one that wants most replicas wins. If some cannot be had, the others may still ask
// for more replicas, but not for fewer.
func (c *controller) consult(ctx context.Context, a *autoscaler, s *autoscalingv1.Scale) (*proposal, []autoscalingv2.MetricStatus, error) {
	pods, err := c.podsOf(a, s)
	if err != nil {
		return nil, nil, err
	}
	statuses := make([]autoscalingv2.MetricStatus, len(a.Spec.Metrics))
	var best *proposal
	var failed []metricError
	for i := range a.Spec.Metrics {
		q := question{spec: &a.Spec.Metrics[i], namespace: a.Namespace, pods: pods, scale: s, tolerance: a.tolerance()}
		start := time.Now()
		answer, err := c.ask(ctx, &q, &statuses[i])
		c.countComputation(start, q.spec.Type, actionFor(a.Status.CurrentReplicas, answer.replicas), err)
		var why metricError
		switch {
		case errors.As(err, &why):
			a.events.Event(a.HorizontalPodAutoscaler, corev1.EventTypeWarning, why.reason, why.cause.Error())
			failed = append(failed, why)
		case err != nil:
			return nil, statuses, err
		case best == nil || best.replicas == 0 || answer.replicas > best.replicas:
			best = &answer
		}
	}
	if len(failed) > 0 {
		err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", len(failed), len(a.Spec.Metrics), failed[0])
	}
	if best == nil || len(failed) > 0 && best.replicas < s.Spec.Replicas {
		if len(failed) > 0 {
			a.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, failed[0].reason, "the HPA was unable to compute the replica count: %v", failed[0].cause)
		}
		return nil, statuses, err
	}
	a.set(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", best.metric)
	return best, statuses, err
}

// metricError is why a metric could not be had.
type metricError struct {
	reason string // of the event and the condition
	prefix string
	cause  error
}

func (e metricError) Error() string { return e.prefix + ": " + e.cause.Error() }
func (e metricError) Unwrap() error { return e.cause }

// podsOf selects the pods of the target, which must be no other autoscaler's.
func (c *controller) podsOf(a *autoscaler, s *autoscalingv1.Scale) (*podSet, error) {
	refuse := func(eventReason, reason, event, message string) error {
		a.events.Event(a.HorizontalPodAutoscaler, corev1.EventTypeWarning, eventReason, event)
		a.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, reason, "%s", message)
		return errors.New(event)
	}
	if s.Status.Selector == "" {
		return nil, refuse("SelectorRequired", "InvalidSelector", "selector is required", "the HPA target's scale is missing a selector")
	}
	selector, err := labels.Parse(s.Status.Selector)
	if err != nil {
		message := fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err)
		return nil, refuse("InvalidSelector", "InvalidSelector", message, message)
	}
	pods, err := c.pods.Pods(a.Namespace).List(selector)
	if err != nil {
		return nil, err
	}
	if owners := c.claim(reconcile.KeyOf(a), selector, pods); len(owners) > 1 {
		message := fmt.Sprintf("pods by selector %v are controlled by more than one HPA (e.g. %v)", s.Status.Selector, owners)
		return nil, refuse("AmbiguousSelector", "AmbiguousSelector", message, message)
	}
	return &podSet{selector, pods}, nil
}

// claim notes the selector of an autoscaler and returns the autoscalers that scale some of the pods, two at most.
func (c *controller) claim(key types.NamespacedName, selector labels.Selector, pods []*corev1.Pod) []types.NamespacedName {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.selectors[key] = selector
	owners := []types.NamespacedName{key}
	for other, s := range c.selectors {
		if other == key || other.Namespace != key.Namespace {
			continue
		}
		for _, pod := range pods {
			if s.Matches(labels.Set(pod.Labels)) {
				return append(owners, other)
			}
		}
	}
	return owners
}

// ask computes what one metric would like, and sets its status.
func (c *controller) ask(ctx context.Context, q *question, status *autoscalingv2.MetricStatus) (proposal, error) {
	status.Type = q.spec.Type
	switch q.spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		s := q.spec.Resource
		answer, current, err := c.askResource(ctx, q, s.Name, "", s.Target)
		if err != nil {
			return proposal{}, metricError{"FailedGetResourceMetric", fmt.Sprintf("failed to get %s resource metric value", s.Name), err}
		}
		status.Resource = &autoscalingv2.ResourceMetricStatus{Name: s.Name, Current: current}
		return answer, nil
	case autoscalingv2.ContainerResourceMetricSourceType:
		s := q.spec.ContainerResource
		answer, current, err := c.askResource(ctx, q, s.Name, s.Container, s.Target)
		if err != nil {
			return proposal{}, metricError{"FailedGetContainerResourceMetric", fmt.Sprintf("failed to get %s container metric value", s.Container), err}
		}
		status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: s.Name, Container: s.Container, Current: current}
		return answer, nil
	case autoscalingv2.PodsMetricSourceType:
		s := q.spec.Pods
		answer, current, err := c.askPods(ctx, q)
		if err != nil {
			return proposal{}, metricError{"FailedGetPodsMetric", "failed to get pods metric value", err}
		}
		status.Pods = &autoscalingv2.PodsMetricStatus{Metric: s.Metric, Current: current}
		return answer, nil
	case autoscalingv2.ObjectMetricSourceType:
		s := q.spec.Object
		answer, current, err := c.askObject(ctx, q)
		if err != nil {
			return proposal{}, metricError{"FailedGetObjectMetric", "failed to get object metric value", err}
		}
		status.Object = &autoscalingv2.ObjectMetricStatus{Metric: s.Metric, DescribedObject: s.DescribedObject, Current: current}
		return answer, nil
	case autoscalingv2.ExternalMetricSourceType:
		s := q.spec.External
		answer, current, err := c.askExternal(ctx, q)
		if err != nil {
			return proposal{}, metricError{"FailedGetExternalMetric", fmt.Sprintf("failed to get %s external metric value", s.Metric.Name), err}
		}
		status.External = &autoscalingv2.ExternalMetricStatus{Metric: s.Metric, Current: current}
		return answer, nil
	}
	why := specError{fmt.Errorf("unknown metric source type %q", q.spec.Type)}
	return proposal{}, metricError{"InvalidMetricSourceType", "failed to get metric value", why}
}

// askResource is about what pods use of CPU, memory and the like; in all, or in one container.
func (c *controller) askResource(ctx context.Context, q *question, name corev1.ResourceName, container string, t autoscalingv2.MetricTarget) (proposal, autoscalingv2.MetricValueStatus, error) {
	none := autoscalingv2.MetricValueStatus{}
	if t.AverageValue == nil && t.AverageUtilization == nil {
		return proposal{}, none, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	kind := "utilization"
	if t.AverageValue != nil {
		kind = "usage"
	}
	used, err := c.Metrics.Resource(ctx, q.namespace, q.pods.selector, name, container)
	if err != nil {
		return proposal{}, none, fmt.Errorf("failed to get %s %s: unable to get metrics for resource %s: %w", name, kind, name, err)
	}
	if t.AverageValue != nil {
		replicas, average, err := q.perPod(used, name, plain{t.AverageValue.MilliValue()})
		if err != nil {
			return proposal{}, none, fmt.Errorf("failed to get %s %s: %w", name, kind, err)
		}
		return proposal{replicas, fmt.Sprintf("%s resource", name)}, autoscalingv2.MetricValueStatus{AverageValue: quantity(name, average)}, nil
	}
	of := utilization{target: *t.AverageUtilization}
	if len(q.pods.list) > 0 {
		if of.requests, err = requestsOf(q.pods.list, container, name); err != nil {
			return proposal{}, none, fmt.Errorf("failed to get %s %s: %w", name, kind, err)
		}
	}
	replicas, average, err := q.perPod(used, name, &of)
	if err != nil {
		return proposal{}, none, fmt.Errorf("failed to get %s %s: %w", name, kind, err)
	}
	metric := fmt.Sprintf("%s resource utilization (percentage of request)", name)
	if container != "" {
		metric = fmt.Sprintf("%s container resource utilization (percentage of request)", name)
	}
	return proposal{replicas, metric}, autoscalingv2.MetricValueStatus{AverageUtilization: &of.percent, AverageValue: quantity(name, average)}, nil
}

// askPods is about a metric that each pod has.
func (c *controller) askPods(ctx context.Context, q *question) (proposal, autoscalingv2.MetricValueStatus, error) {
	s := q.spec.Pods
	selector, err := metav1.LabelSelectorAsSelector(s.Metric.Selector)
	if err != nil {
		return proposal{}, autoscalingv2.MetricValueStatus{}, err
	}
	values, err := c.Metrics.Pods(ctx, q.namespace, q.pods.selector, s.Metric.Name, selector)
	if err != nil {
		return proposal{}, autoscalingv2.MetricValueStatus{}, fmt.Errorf("unable to get metric %s: %w", s.Metric.Name, err)
	}
	replicas, average, err := q.perPod(values, "", plain{s.Target.AverageValue.MilliValue()})
	return proposal{replicas, "pods metric " + s.Metric.Name}, autoscalingv2.MetricValueStatus{AverageValue: quantity("", average)}, err
}

// askObject is about a metric of one object.
func (c *controller) askObject(ctx context.Context, q *question) (proposal, autoscalingv2.MetricValueStatus, error) {
	s := q.spec.Object
	selector, err := metav1.LabelSelectorAsSelector(s.Metric.Selector)
	if err != nil {
		return proposal{}, autoscalingv2.MetricValueStatus{}, err
	}
	value, err := c.Metrics.Object(ctx, q.namespace, s.DescribedObject, s.Metric.Name, selector)
	if err != nil {
		err = fmt.Errorf("unable to get metric %s on %s %s/%s: %w", s.Metric.Name, s.DescribedObject.Kind, q.namespace, s.DescribedObject.Name, err)
		return proposal{}, autoscalingv2.MetricValueStatus{}, err
	}
	return q.whole(value, s.Target, fmt.Sprintf("%s metric %s", s.DescribedObject.Kind, s.Metric.Name), "object")
}

// askExternal is about a metric of something that is not in the cluster.
func (c *controller) askExternal(ctx context.Context, q *question) (proposal, autoscalingv2.MetricValueStatus, error) {
	s := q.spec.External
	selector, err := metav1.LabelSelectorAsSelector(s.Metric.Selector)
	if err != nil {
		return proposal{}, autoscalingv2.MetricValueStatus{}, err
	}
	value, err := c.Metrics.External(ctx, q.namespace, s.Metric.Name, selector)
	if err != nil {
		err = fmt.Errorf("failed to get external metric %s: unable to get external metric %s/%s/%+v: %w", s.Metric.Name, q.namespace, s.Metric.Name, s.Metric.Selector, err)
		return proposal{}, autoscalingv2.MetricValueStatus{}, err
	}
	return q.whole(value, s.Target, fmt.Sprintf("external metric %s(%+v)", s.Metric.Name, s.Metric.Selector), "external")
}
