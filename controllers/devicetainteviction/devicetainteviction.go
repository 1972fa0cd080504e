// SPDX-License-Identifier: Apache-2.0

// Package devicetainteviction deletes pods whose devices have a NoExecute taint that their claims do not tolerate, or
// tolerate no longer.
//
// A device has taints from its driver, in its ResourceSlice, and from administrators, by DeviceTaintRules. A pod uses
// the devices that are allocated to the ResourceClaims which are reserved for it; tolerations are the claim's. What
// that means for a pod is decided in decide.go from what there is now, whatever has changed; rules say in a condition
// what they do, or would do (status.go).
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#device-taints-and-tolerations
package devicetainteviction

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "device-taint-eviction-controller"
	Component = "device-taint-eviction-controller"
)

type controller struct {
	client  kubernetes.Interface
	pods    corelisters.PodLister
	claims  resourcelisters.ResourceClaimLister
	slices  resourcelisters.ResourceSliceLister
	rules   resourcelisters.DeviceTaintRuleLister
	events  record.EventRecorder
	metrics *metrics.Eviction

	mu       sync.Mutex
	counting map[types.NamespacedName]bool // pods that wait for their deletion; guarded by mu
	evicted  map[types.UID]int             // how many pods each rule has cost; guarded by mu
}

// New returns the controller. Its keys are pods and, without a namespace, rules.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Eviction) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods()
	claims := factory.Resource().V1().ResourceClaims()
	slices := factory.Resource().V1().ResourceSlices()
	rules := factory.Resource().V1().DeviceTaintRules()
	c := &controller{
		client: client, pods: pods.Lister(), claims: claims.Lister(), slices: slices.Lister(), rules: rules.Lister(), events: events, metrics: measured,
		counting: map[types.NamespacedName]bool{}, evicted: map[types.UID]int{},
	}
	return reconcile.Controller{
		Name:      "device_taint_eviction",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(pods.Informer(), c.podChanged),
			reconcile.On(claims.Informer(), c.claimChanged),
			reconcile.On(slices.Informer(), c.sliceChanged),
			reconcile.On(rules.Informer(), c.ruleChanged),
		},
	}, nil
}

// podChanged queues a pod with claims when it is bound, and when its claims become known.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	switch {
	case new == nil:
		if usesClaims(old) {
			q.Add(reconcile.KeyOf(old))
			c.enqueueRules(q)
		}
	case !usesClaims(new):
	case old == nil || old.Spec.NodeName != new.Spec.NodeName || (old.DeletionTimestamp == nil) != (new.DeletionTimestamp == nil) ||
		!resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses) ||
		!resourceclaim.PodExtendedStatusEqual(old.Status.ExtendedResourceClaimStatus, new.Status.ExtendedResourceClaimStatus):
		q.Add(reconcile.KeyOf(new))
		c.enqueueRules(q)
	}
}

func usesClaims(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
}

// enqueueRules lets the conditions of rules that evict follow what happens to pods, in a while.
func (c *controller) enqueueRules(q reconcile.Queue) {
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return
	}
	for _, rule := range rules {
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
			q.AddAfter(types.NamespacedName{Name: rule.Name}, statusPeriod)
		}
	}
}

// claimChanged queues the pods that a claim is reserved for, or was.
func (c *controller) claimChanged(q reconcile.Queue, old, new *resourcev1.ResourceClaim) {
	for _, claim := range []*resourcev1.ResourceClaim{old, new} {
		if claim != nil {
			enqueueConsumers(q, claim)
		}
	}
}

func enqueueConsumers(q reconcile.Queue, claim *resourcev1.ResourceClaim) {
	for _, consumer := range claim.Status.ReservedFor {
		if consumer.APIGroup == "" && consumer.Resource == "pods" {
			q.Add(types.NamespacedName{Namespace: claim.Namespace, Name: consumer.Name})
		}
	}
}

// sliceChanged queues the pods with devices of a pool if it has tainted devices, or had. A new slice may also be the
// end of others of its pool.
func (c *controller) sliceChanged(q reconcile.Queue, old, new *resourcev1.ResourceSlice) {
	for _, slice := range []*resourcev1.ResourceSlice{old, new} {
		if slice == nil {
			continue
		}
		p := poolOf(slice)
		if isTainted(slice) || c.poolIsTainted(p) {
			c.enqueueUsers(q, func(d *resourcev1.DeviceRequestAllocationResult) bool {
				return d.Driver == p.driver && d.Pool == p.name
			})
		}
	}
}

func (c *controller) poolIsTainted(p pool) bool {
	all, err := c.slices.List(labels.Everything())
	if err != nil {
		return true
	}
	for _, slice := range all {
		if poolOf(slice) == p && isTainted(slice) {
			return true
		}
	}
	return false
}

// enqueueUsers queues the pods that have one of these devices.
func (c *controller) enqueueUsers(q reconcile.Queue, of func(*resourcev1.DeviceRequestAllocationResult) bool) {
	claims, err := c.claims.List(labels.Everything())
	if err != nil {
		return
	}
	for _, claim := range claims {
		if hasDevice(claim, of) {
			enqueueConsumers(q, claim)
		}
	}
}

// ruleChanged queues the rule, and the pods with devices that it selects, or selected.
func (c *controller) ruleChanged(q reconcile.Queue, old, new *resourcev1.DeviceTaintRule) {
	if old != nil && new != nil && equality.Semantic.DeepEqual(old.Spec, new.Spec) {
		return
	}
	for _, rule := range []*resourcev1.DeviceTaintRule{old, new} {
		if rule != nil && rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
			c.enqueueUsers(q, func(d *resourcev1.DeviceRequestAllocationResult) bool {
				return selects(rule, d.Driver, d.Pool, d.Device)
			})
		}
	}
	if new != nil {
		q.Add(types.NamespacedName{Name: new.Name})
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.evicted, old.UID)
}

// Reconcile deletes a pod whose time has come, or asks to see it again when it will have; or it updates a rule.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	if key.Namespace == "" {
		return c.updateRule(ctx, key.Name)
	}
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || podcontrol.Terminal(pod)) {
		c.count(key, false)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	w, err := c.world()
	if err != nil {
		return reconcile.Result{}, err
	}
	found := w.evictionOf(pod)
	if found == nil {
		if c.count(key, false) {
			c.events.Event(podRef(pod), corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
		}
		return reconcile.Result{}, nil
	}
	if left := time.Until(found.at); left > 0 {
		c.count(key, true)
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := c.evict(ctx, pod); err != nil {
		return reconcile.Result{}, err
	}
	c.metrics.Evicted(found.at)
	c.count(key, false)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rule := range found.rules {
		c.evicted[rule]++
	}
	return reconcile.Result{}, nil
}

// count notes whether a pod waits for its deletion, and tells whether it did.
func (c *controller) count(key types.NamespacedName, waits bool) (waited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	waited = c.counting[key]
	if waits {
		c.counting[key] = true
	} else {
		delete(c.counting, key)
	}
	return waited
}

// world reads what there is.
func (c *controller) world() (*world, error) {
	slices, err := c.slices.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return newWorld(slices, rules, func(namespace, name string) *resourcev1.ResourceClaim {
		claim, err := c.claims.ResourceClaims(namespace).Get(name)
		if err != nil {
			return nil
		}
		return claim
	}), nil
}

// evict says in the pod's conditions why, and deletes it.
func (c *controller) evict(ctx context.Context, pod *corev1.Pod) error {
	c.events.Event(podRef(pod), corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	status := pod.Status.DeepCopy()
	if podcontrol.SetCondition(status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: pod.Generation,
		Reason: "DeletionByDeviceTaintManager", Message: "Device Taint manager: deleting due to NoExecute taint",
	}) {
		if err := podcontrol.PatchStatus(ctx, c.client, pod, *status); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod for deletion: %w", err)
		}
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod: %w", err)
	}
	return nil
}

func podRef(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}
