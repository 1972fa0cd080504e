// SPDX-License-Identifier: Apache-2.0

// Package disruption says how many pods of a PodDisruptionBudget may be evicted.
//
// It only counts and writes the status; the eviction subresource of pods acts on that: it lowers
// status.disruptionsAllowed and notes the pod in status.disruptedPods, so that the pod counts as gone before it is.
// If pods cannot be counted, none may be evicted.
//
// NewStaleConditions is a second controller: a pod that was to be disrupted and is still there two minutes later is not
// being disrupted any more, and its condition DisruptionTarget says so.
// Reference: https://kubernetes.io/docs/concepts/workloads/pods/disruptions/
package disruption

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "disruption-controller"
	Component = "controllermanager"
)

// deletionTimeout is how long a pod that was to be evicted counts as gone without being deleted.
const deletionTimeout = 2 * time.Minute

type controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	scales  *scales
}

// New returns the controller of PodDisruptionBudgets.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	budgets, pods, apps := factory.Policy().V1().PodDisruptionBudgets(), factory.Core().V1().Pods(), factory.Apps().V1()
	rcs := factory.Core().V1().ReplicationControllers()
	c := &controller{
		client:  client,
		events:  events,
		budgets: budgets.Lister(),
		pods:    pods.Lister(),
		scales: &scales{
			controllers:  rcs.Lister(),
			replicaSets:  apps.ReplicaSets().Lister(),
			deployments:  apps.Deployments().Lister(),
			statefulSets: apps.StatefulSets().Lister(),
			subresource:  scaleSubresource(client.Discovery()),
		},
	}
	return reconcile.Controller{
		Name:      "disruption",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*policyv1.PodDisruptionBudget](budgets.Informer()),
			reconcile.On(pods.Informer(), c.podChanged),
		},
		Reads: []cache.SharedIndexInformer{
			rcs.Informer(), apps.ReplicaSets().Informer(), apps.Deployments().Informer(), apps.StatefulSets().Informer(),
		},
	}, nil
}

// podChanged queues the budgets that a pod belongs to, or did before.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	relabelled := old == nil || new == nil || !maps.Equal(old.Labels, new.Labels)
	if old != nil && relabelled {
		for _, budget := range c.budgetsOf(old) {
			q.Add(reconcile.KeyOf(budget))
		}
	}
	if new == nil {
		return
	}
	budgets := c.budgetsOf(new)
	for _, budget := range budgets {
		q.Add(reconcile.KeyOf(budget))
	}
	if relabelled && len(budgets) > 1 {
		c.events.Eventf(new, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets",
			"Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", new.Namespace, new.Name, budgets[0].Name)
	}
}

// budgetsOf returns the budgets that the pod belongs to. A selector that is empty, but there, matches all pods.
func (c *controller) budgetsOf(pod *corev1.Pod) []*policyv1.PodDisruptionBudget {
	all, err := c.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var found []*policyv1.PodDisruptionBudget
	for _, budget := range all {
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, budget)
		}
	}
	return found
}

// Reconcile counts the pods of a budget and writes its status.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.budgets.PodDisruptionBudgets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	budget, now := cached.DeepCopy(), time.Now()
	recheck, failed := c.count(ctx, budget, now)
	if failed != nil {
		klog.FromContext(ctx).Error(failed, "Counting the pods of a PodDisruptionBudget")
		forbid(budget, failed)
	}
	if !apiequality.Semantic.DeepEqual(cached.Status, budget.Status) {
		if _, err := c.client.PolicyV1().PodDisruptionBudgets(key.Namespace).UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
			return reconcile.Result{}, fmt.Errorf("update status of PodDisruptionBudget: %w", err)
		}
	}
	if passes(failed) {
		return reconcile.Result{}, failed
	}
	return reconcile.Result{RequeueAfter: recheck}, nil
}

// passes tells of an error whether the next try may succeed, though nothing changes that is watched: the API server did not answer
// as it should.
func passes(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && !apierrors.IsNotFound(err)
}

// forbid lets nothing be evicted, because of an error.
func forbid(budget *policyv1.PodDisruptionBudget, err error) {
	budget.Status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&budget.Status.Conditions, metav1.Condition{
		Type:               policyv1.DisruptionAllowedCondition,
		Status:             metav1.ConditionFalse,
		Reason:             policyv1.SyncFailedReason,
		Message:            err.Error(),
		ObservedGeneration: budget.Status.ObservedGeneration,
	})
}

// count computes the budget's status. It returns in how long the first pod that was to be evicted counts again; 0 if
// there is none.
func (c *controller) count(ctx context.Context, budget *policyv1.PodDisruptionBudget, now time.Time) (recheck time.Duration, err error) {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		c.events.Eventf(budget, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	pods, err := c.pods.Pods(budget.Namespace).List(selector)
	if err != nil {
		c.events.Eventf(budget, corev1.EventTypeWarning, "NoPods", "Failed to get pods: %v", err)
		return 0, err
	}
	if len(pods) == 0 {
		c.events.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, unmanaged, err := c.expected(ctx, budget, pods)
	desired := 0
	if err == nil {
		desired, err = desiredHealthy(&budget.Spec, expected)
	}
	if err != nil {
		c.events.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return 0, err
	}
	if unmanaged {
		c.events.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
	}
	disrupted, overdue, recheck := stillDisrupted(pods, budget.Status.DisruptedPods, now)
	for _, pod := range overdue {
		c.events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Name)
	}
	setStatus(budget, expected, desired, healthy(pods, disrupted), disrupted)
	return recheck, nil
}

// expected is how many pods there should be: all there are if a number of them has to be available, or else as many as
// their controllers want. unmanaged tells that there are pods without a controller, which are not counted then.
func (c *controller) expected(ctx context.Context, budget *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (n int, unmanaged bool, err error) {
	switch minAvailable := budget.Spec.MinAvailable; {
	case budget.Spec.MaxUnavailable != nil, minAvailable != nil && minAvailable.Type == intstr.String:
		return c.scales.sum(ctx, pods)
	case minAvailable != nil:
		return len(pods), false, nil
	}
	return 0, false, nil
}

// desiredHealthy is how many pods have to stay.
func desiredHealthy(spec *policyv1.PodDisruptionBudgetSpec, expected int) (int, error) {
	switch {
	case spec.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, expected, true)
		return max(0, expected-n), err
	case spec.MinAvailable != nil:
		return intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, expected, true)
	}
	return 0, nil
}

// stillDisrupted returns those of the disrupted pods that are still to be deleted, those for which that is overdue, and
// in how long the next will be; 0 if there is none.
func stillDisrupted(pods []*corev1.Pod, disrupted map[string]metav1.Time, now time.Time) (still map[string]metav1.Time, overdue []*corev1.Pod, next time.Duration) {
	still = map[string]metav1.Time{}
	for _, pod := range pods {
		since, ok := disrupted[pod.Name]
		if !ok || pod.DeletionTimestamp != nil {
			continue
		}
		left := since.Add(deletionTimeout).Sub(now)
		if left < 0 {
			overdue = append(overdue, pod)
			continue
		}
		still[pod.Name] = since
		if left = max(left, time.Millisecond); next == 0 || left < next {
			next = left
		}
	}
	return still, overdue, next
}

// healthy counts the pods that are ready and will stay.
func healthy(pods []*corev1.Pod, disrupted map[string]metav1.Time) int {
	n := 0
	for _, pod := range pods {
		if _, goes := disrupted[pod.Name]; !goes && pod.DeletionTimestamp == nil && podcontrol.Ready(pod) {
			n++
		}
	}
	return n
}

// setStatus sets the status by the counts. Where no pods are expected, none may be evicted: the first ones may just not be
// seen yet.
func setStatus(budget *policyv1.PodDisruptionBudget, expected, desired, healthy int, disrupted map[string]metav1.Time) {
	allowed := max(0, healthy-desired)
	if expected <= 0 {
		allowed = 0
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{
		ExpectedPods:       int32(expected),
		DesiredHealthy:     int32(desired),
		CurrentHealthy:     int32(healthy),
		DisruptionsAllowed: int32(allowed),
		DisruptedPods:      disrupted,
		ObservedGeneration: budget.Generation,
		Conditions:         budget.Status.Conditions,
	}
	poddisruptionbudget.UpdateDisruptionAllowedCondition(budget)
}
