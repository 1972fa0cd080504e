// SPDX-License-Identifier: Apache-2.0

package devicetainteviction

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// statusPeriod is the shortest time between two conditions of a rule.
const statusPeriod = 10 * time.Second

// updateRule says in a rule's condition how far it is; one without effect says what it would do.
func (c *controller) updateRule(ctx context.Context, name string) (reconcile.Result, error) {
	rule, err := c.rules.Get(name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	old := meta.FindStatusCondition(rule.Status.Conditions, resourcev1.DeviceTaintConditionEvictionInProgress)
	if old != nil && old.ObservedGeneration == rule.Generation {
		if left := reconcile.Left(old.LastTransitionTime.Time, statusPeriod); left > 0 {
			return reconcile.Result{RequeueAfter: left}, nil
		}
	}
	condition, err := c.conditionOf(rule)
	if err != nil {
		return reconcile.Result{}, err
	}
	if old != nil {
		condition.LastTransitionTime = old.LastTransitionTime
		if *old == condition {
			return reconcile.Result{}, nil
		}
	}
	condition.LastTransitionTime = metav1.Now() // of each change, or nobody could tell when the last one was
	changed := rule.DeepCopy()
	changed.Status.Conditions = slices.DeleteFunc(changed.Status.Conditions, func(c metav1.Condition) bool { return c.Type == condition.Type })
	changed.Status.Conditions = append(changed.Status.Conditions, condition)
	if _, err := c.client.ResourceV1().DeviceTaintRules().UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("set the status of DeviceTaintRule %s: %w", name, err)
	}
	return reconcile.Result{}, nil
}

func (c *controller) conditionOf(rule *resourcev1.DeviceTaintRule) (metav1.Condition, error) {
	condition := metav1.Condition{
		Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, ObservedGeneration: rule.Generation,
	}
	c.mu.Lock()
	evicted := c.evicted[rule.UID]
	c.mu.Unlock()
	switch rule.Spec.Taint.Effect {
	case resourcev1.DeviceTaintEffectNoExecute:
		e, err := c.effectOf(rule)
		if err != nil {
			return condition, err
		}
		switch {
		case e.pods == 1:
			condition.Message = "1 pod needs to be evicted in " + e.where() + "."
		case e.pods > 1:
			condition.Message = fmt.Sprintf("%d pods need to be evicted in %s.", e.pods, e.where())
		}
		switch {
		case e.pods > 0:
			condition.Status, condition.Reason = metav1.ConditionTrue, "PodsPendingEviction"
		case evicted > 0:
			condition.Reason = "Completed"
		default:
			condition.Reason = "NotStarted"
		}
	case resourcev1.DeviceTaintEffectNone:
		would := rule.DeepCopy()
		would.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
		e, err := c.effectOf(would)
		if err != nil {
			return condition, err
		}
		condition.Reason = "NoEffect"
		condition.Message = fmt.Sprintf("%s selected. %s selected. %s would be evicted in %s if the effect was NoExecute. "+
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
			several(e.published, "published device"), several(e.allocated, "allocated device"), several(e.pods, "pod"), e.where())
	default:
		condition.Reason, condition.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if evicted > 0 {
		if condition.Message != "" {
			condition.Message += " "
		}
		condition.Message += several(evicted, "pod") + " evicted since starting the controller."
	}
	return condition, nil
}

func several(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// effect is what a rule brings about.
type effect struct{ published, allocated, pods, namespaces int }

func (e effect) where() string {
	if e.namespaces == 1 {
		return "1 namespace"
	}
	return fmt.Sprintf("%d different namespaces", e.namespaces)
}

// effectOf counts the devices that a rule selects, and the pods that must go because of it and have not yet.
func (c *controller) effectOf(rule *resourcev1.DeviceTaintRule) (e effect, err error) {
	w, err := c.world()
	if err != nil {
		return e, err
	}
	w.rules = slices.DeleteFunc(w.rules, func(r *resourcev1.DeviceTaintRule) bool { return r.UID == rule.UID })
	w.rules = append(w.rules, rule)
	published, err := c.slices.List(labels.Everything())
	if err != nil {
		return e, err
	}
	for _, slice := range published {
		for _, d := range slice.Spec.Devices {
			if w.isCurrent(slice) && selects(rule, slice.Spec.Driver, slice.Spec.Pool.Name, d.Name) {
				e.published++
			}
		}
	}
	claims, err := c.claims.List(labels.Everything())
	if err != nil {
		return e, err
	}
	for _, claim := range claims {
		if claim.Status.Allocation == nil {
			continue
		}
		for _, d := range claim.Status.Allocation.Devices.Results {
			if selects(rule, d.Driver, d.Pool, d.Device) {
				e.allocated++
			}
		}
	}
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return e, err
	}
	namespaces := sets.New[string]()
	for _, pod := range podcontrol.Filter(pods, func(p *corev1.Pod) bool { return usesClaims(p) && podcontrol.Active(p) }) {
		if found := w.evictionOf(pod); found != nil && slices.Contains(found.rules, rule.UID) {
			e.pods++
			namespaces.Insert(pod.Namespace)
		}
	}
	e.namespaces = namespaces.Len()
	return e, nil
}
