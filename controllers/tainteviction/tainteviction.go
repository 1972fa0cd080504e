// SPDX-License-Identifier: Apache-2.0

// Package tainteviction deletes pods from nodes with NoExecute taints that they do not tolerate, or no longer.
//
// A toleration with tolerationSeconds gives a pod that long, counted from when this controller first saw it on
// the tainted node. Its keys are pods.
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions
package tainteviction

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity (it has the node controller's), Component its name in events.
const (
	Name      = "node-controller"
	Component = "taint-eviction-controller"
)

type controller struct {
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	lister  corelisters.PodLister
	indexer cache.Indexer
	events  record.EventRecorder
	metrics *metrics.Eviction

	mu    sync.Mutex
	since map[types.NamespacedName]time.Time // when the countdown of a pod began; guarded by mu
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Eviction) (reconcile.Controller, error) {
	nodes := factory.Core().V1().Nodes()
	pods := factory.Core().V1().Pods()
	if err := podcontrol.IndexByNode(pods.Informer()); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{
		client:  client,
		nodes:   nodes.Lister(),
		lister:  pods.Lister(),
		indexer: pods.Informer().GetIndexer(),
		events:  events,
		metrics: measured,
		since:   map[types.NamespacedName]time.Time{},
	}
	return reconcile.Controller{
		Name:      "taint_eviction",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(nodes.Informer(), c.nodeChanged),
			reconcile.On(pods.Informer(), c.podChanged),
		},
	}, nil
}

// nodeChanged queues the pods of a node whose NoExecute taints changed.
func (c *controller) nodeChanged(q reconcile.Queue, old, new *corev1.Node) {
	if new == nil || apiequality.Semantic.DeepEqual(noExecute(old), noExecute(new)) {
		return
	}
	pods, err := podcontrol.ByNode(c.indexer, new.Name)
	if err != nil {
		return
	}
	for _, pod := range pods {
		q.Add(reconcile.KeyOf(pod))
	}
}

// podChanged queues a pod that is new on a node with NoExecute taints, or tolerates other taints than before.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	switch {
	case new == nil:
		c.mu.Lock()
		delete(c.since, reconcile.KeyOf(old))
		c.mu.Unlock()
		return
	case new.Spec.NodeName == "",
		old != nil && old.Spec.NodeName == new.Spec.NodeName && apiequality.Semantic.DeepEqual(old.Spec.Tolerations, new.Spec.Tolerations):
		return
	}
	if node, err := c.nodes.Get(new.Spec.NodeName); err == nil && len(noExecute(node)) == 0 {
		return
	}
	q.Add(reconcile.KeyOf(new))
}

func noExecute(node *corev1.Node) []corev1.Taint {
	if node == nil {
		return nil
	}
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, taint)
		}
	}
	return taints
}

// Reconcile deletes a pod whose time on its node is over, or asks to see it again when it will be.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pod, err := c.lister.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil // that is for package podgc
	}
	if err != nil {
		return reconcile.Result{}, err
	}

	tolerated, forever := toleratedFor(klog.FromContext(ctx), noExecute(node), pod.Spec.Tolerations)
	if forever || pod.DeletionTimestamp != nil {
		if c.forget(key) && forever {
			c.events.Eventf(podRef(key), corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return reconcile.Result{}, nil
	}
	due := c.begin(key, tolerated).Add(tolerated)
	if left := time.Until(due); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err := c.evict(ctx, pod); err != nil {
		return reconcile.Result{}, err
	}
	c.metrics.Evicted(due)
	return reconcile.Result{}, nil
}

// begin returns when the countdown of a pod began, which is now if there is none.
func (c *controller) begin(key types.NamespacedName, tolerated time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.since[key]
	if !ok {
		since = time.Now()
		if tolerated > 0 {
			c.since[key] = since
		}
	}
	return since
}

// forget ends the countdown of a pod and tells whether there was one.
func (c *controller) forget(key types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, counting := c.since[key]
	delete(c.since, key)
	return counting
}

// toleratedFor returns how long a pod with these tolerations may stay on a node with these taints. For each taint
// the first toleration that matches counts, even if a later one allows more or less.
func toleratedFor(logger klog.Logger, taints []corev1.Taint, tolerations []corev1.Toleration) (d time.Duration, forever bool) {
	forever = true
	for i := range taints {
		first := slices.IndexFunc(tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(logger, &taints[i], true) })
		if first < 0 {
			return 0, false
		}
		seconds := tolerations[first].TolerationSeconds
		if seconds == nil {
			continue
		}
		if limit := time.Duration(max(0, *seconds)) * time.Second; forever || limit < d {
			d, forever = limit, false
		}
	}
	return d, forever
}

// evict says in the pod's conditions why, and deletes it.
func (c *controller) evict(ctx context.Context, pod *corev1.Pod) error {
	key := reconcile.KeyOf(pod)
	c.events.Eventf(podRef(key), corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	status := pod.Status.DeepCopy()
	changed := podcontrol.SetCondition(status, corev1.PodCondition{
		Type:               corev1.DisruptionTarget,
		ObservedGeneration: pod.Generation,
		Status:             corev1.ConditionTrue,
		Reason:             "DeletionByTaintManager",
		Message:            "Taint manager: deleting due to NoExecute taint",
	})
	if changed {
		if err := podcontrol.PatchStatus(ctx, c.client, pod, *status); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark for deletion: %w", err)
		}
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

func podRef(key types.NamespacedName) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: key.Namespace, Name: key.Name}
}
