// SPDX-License-Identifier: Apache-2.0

// Package podautoscaler scales what HorizontalPodAutoscalers name, so that its pods use as much as is wished.
//
// Every 15 seconds, and at once when its spec has changed, each autoscaler is looked at: metrics.go asks the metrics
// APIs, replicas.go computes how many replicas each metric would like, behavior.go lets the number change no faster
// and no sooner than the autoscaler allows, and this file writes the scale and the status. Nothing runs without an
// autoscaler. What was recommended and done lately is kept in memory only: after a restart a scale-down waits anew.
// Reference: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
package podautoscaler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	autoscalinglisters "k8s.io/client-go/listers/autoscaling/v2"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "horizontal-pod-autoscaler"
	Component = "horizontal-pod-autoscaler"

	period = 15 * time.Second // between two looks at an autoscaler
)

// Deps is what the controller works with.
type Deps struct {
	Client  kubernetes.Interface
	Scales  scale.ScalesGetter
	Mapper  meta.RESTMapper
	Metrics Metrics
	Events  record.EventRecorder
	// Measured is what the controller measures of itself.
	Measured *metrics.Autoscaler
}

type controller struct {
	Deps
	autoscalers autoscalinglisters.HorizontalPodAutoscalerLister
	pods        corelisters.PodLister

	mu        sync.Mutex
	histories map[types.NamespacedName]*history        // guarded by mu; each entry belongs to the reconcile of its key
	selectors map[types.NamespacedName]labels.Selector // of the pods that each scales, as last seen; guarded by mu
}

// New returns the controller.
func New(deps Deps, factory informers.SharedInformerFactory) reconcile.Controller {
	autoscalers := factory.Autoscaling().V2().HorizontalPodAutoscalers()
	pods := factory.Core().V1().Pods()
	c := &controller{
		Deps: deps, autoscalers: autoscalers.Lister(), pods: pods.Lister(),
		histories: map[types.NamespacedName]*history{}, selectors: map[types.NamespacedName]labels.Selector{},
	}
	return reconcile.Controller{
		Name:       "horizontalpodautoscaler",
		Reconcile:  c.Reconcile,
		MinBackoff: period,
		MaxBackoff: period,
		Watches: []reconcile.Watch{
			reconcile.On(autoscalers.Informer(), func(q reconcile.Queue, old, new *autoscalingv2.HorizontalPodAutoscaler) {
				switch {
				case new == nil:
					c.countAutoscalers()
					c.Measured.DesiredReplicas.DeleteLabelValues(old.Namespace, old.Name)
					q.Add(reconcile.KeyOf(old))
				case old == nil:
					c.countAutoscalers()
					q.Add(reconcile.KeyOf(new))
				case old.Generation != new.Generation: // writes to the status are our own
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{pods.Informer()},
	}
}

// Reconcile looks at one autoscaler.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	found, err := c.autoscalers.HorizontalPodAutoscalers(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	a := &autoscaler{HorizontalPodAutoscaler: found.DeepCopy(), history: c.historyOf(found), events: c.Events, action: actionNone}
	start := time.Now()
	err = c.scale(ctx, a)
	defer func() { c.countReconciliation(start, a.action, err) }()
	if err == nil {
		c.Measured.DesiredReplicas.WithLabelValues(key.Namespace, key.Name).Set(float64(a.Status.DesiredReplicas))
	}
	if writeErr := c.writeStatus(ctx, found, a); writeErr != nil {
		err = errors.Join(err, writeErr)
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: period}, err
}

func (c *controller) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.histories, key)
	delete(c.selectors, key)
}

func (c *controller) historyOf(hpa *autoscalingv2.HorizontalPodAutoscaler) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := reconcile.KeyOf(hpa)
	if c.histories[key] == nil || c.histories[key].owner != hpa.UID {
		c.histories[key] = &history{owner: hpa.UID}
	}
	return c.histories[key]
}

// autoscaler is one in the course of a reconcile: conditions and status are set in it as they are found out.
type autoscaler struct {
	*autoscalingv2.HorizontalPodAutoscaler
	history *history
	events  record.EventRecorder
	action  string // what was done, for the metrics
}

func (a *autoscaler) minReplicas() int32 {
	if a.Spec.MinReplicas != nil {
		return *a.Spec.MinReplicas
	}
	return 1
}

// target is what an autoscaler scales.
type target struct {
	resource schema.GroupResource
	scale    *autoscalingv1.Scale
}

// scale brings the target to the size that its metrics ask for.
func (c *controller) scale(ctx context.Context, a *autoscaler) error {
	t, err := c.find(ctx, a)
	if err != nil {
		a.events.Event(a.HorizontalPodAutoscaler, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		a.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return err
	}
	a.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := t.scale.Spec.Replicas
	a.history.begin(current)

	d, err := c.decide(ctx, a, t.scale)
	if d.undecided {
		a.observe(current, a.Status.DesiredReplicas, d.metrics)
		if err != nil {
			a.events.Event(a.HorizontalPodAutoscaler, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", err.Error())
			err = fmt.Errorf("compute the desired number of replicas of %s/%s: %w", a.Namespace, a.Name, err)
		}
		return err
	}
	if d.replicas == current {
		a.observe(current, current, d.metrics)
		return err // of metrics that could be done without
	}
	if writeErr := c.rescale(ctx, t, d.replicas); writeErr != nil {
		a.events.Eventf(a.HorizontalPodAutoscaler, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", d.replicas, d.reason, writeErr)
		a.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", writeErr)
		a.observe(current, a.Status.DesiredReplicas, d.metrics)
		return fmt.Errorf("rescale %s %s/%s: %w", t.resource, a.Namespace, a.Spec.ScaleTargetRef.Name, writeErr)
	}
	a.rescaled(current, d)
	return err
}

// rescaled notes a change of size that was made.
func (a *autoscaler) rescaled(current int32, d decision) {
	a.action = actionFor(current, d.replicas)
	a.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", "the HPA controller was able to update the target scale to %d", d.replicas)
	a.events.Eventf(a.HorizontalPodAutoscaler, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", d.replicas, d.reason)
	if a.Spec.Behavior != nil {
		a.history.rescaled(current, d.replicas)
	}
	if current > 0 && d.replicas == 0 && a.minReplicas() == 0 && a.knowsMoreThanPods() {
		a.set(autoscalingv2.ScaledToZero, corev1.ConditionTrue, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		a.set(autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	a.observe(current, d.replicas, d.metrics)
	now := metav1.Now()
	a.Status.LastScaleTime = &now
}

// find reads the target's scale.
func (c *controller) find(ctx context.Context, a *autoscaler) (*target, error) {
	ref := a.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, specError{fmt.Errorf("invalid API version in scale target reference: %w", err)}
	}
	mappings, err := c.Mapper.RESTMappings(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if err != nil {
		return nil, err
	}
	first := errors.New("unrecognized resource")
	for i, mapping := range mappings {
		resource := mapping.Resource.GroupResource()
		s, err := c.Scales.Scales(a.Namespace).Get(ctx, resource, ref.Name, metav1.GetOptions{})
		if err == nil {
			return &target{resource, s}, nil
		}
		if i == 0 {
			first = err
		}
	}
	return nil, first
}

// rescale writes the new size. Somebody else's write between the read and this one does not stop it.
func (c *controller) rescale(ctx context.Context, t *target, replicas int32) error {
	scales := c.Scales.Scales(t.scale.Namespace)
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		t.scale.Spec.Replicas = replicas
		_, err := scales.Update(ctx, t.resource, t.scale, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			if latest, getErr := scales.Get(ctx, t.resource, t.scale.Name, metav1.GetOptions{}); getErr == nil {
				t.scale = latest
			}
		}
		return err
	})
}

// writeStatus writes the status if it has changed.
func (c *controller) writeStatus(ctx context.Context, old *autoscalingv2.HorizontalPodAutoscaler, a *autoscaler) error {
	if equality.Semantic.DeepEqual(old.Status, a.Status) {
		return nil
	}
	changed := old.DeepCopy() // the spec may have defaults of ours
	changed.Status = a.Status
	_, err := c.Client.AutoscalingV2().HorizontalPodAutoscalers(old.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		c.Events.Event(old, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		return fmt.Errorf("set the status of HorizontalPodAutoscaler %s/%s: %w", old.Namespace, old.Name, err)
	}
	return nil
}

// observe sets what is not a condition.
func (a *autoscaler) observe(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	generation := a.Generation
	a.Status.ObservedGeneration = &generation
	a.Status.CurrentReplicas, a.Status.DesiredReplicas, a.Status.CurrentMetrics = current, desired, metrics
}

// set sets a condition.
func (a *autoscaler) set(t autoscalingv2.HorizontalPodAutoscalerConditionType, value corev1.ConditionStatus, reason, format string, args ...any) {
	condition := a.condition(t)
	if condition == nil {
		a.Status.Conditions = append(a.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{Type: t})
		condition = &a.Status.Conditions[len(a.Status.Conditions)-1]
	}
	if condition.Status != value {
		condition.LastTransitionTime = metav1.Now()
	}
	condition.Status, condition.Reason, condition.Message = value, reason, fmt.Sprintf(format, args...)
}

func (a *autoscaler) condition(t autoscalingv2.HorizontalPodAutoscalerConditionType) *autoscalingv2.HorizontalPodAutoscalerCondition {
	for i := range a.Status.Conditions {
		if a.Status.Conditions[i].Type == t {
			return &a.Status.Conditions[i]
		}
	}
	return nil
}
