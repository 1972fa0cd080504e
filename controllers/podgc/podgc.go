// SPDX-License-Identifier: Apache-2.0

// Package podgc deletes pods that nobody else will:
//
//   - bound to a node that has not existed for a while: one that registers anew keeps its pods;
//   - terminating on a node that is not ready and tainted out-of-service;
//   - terminating without ever having been bound;
//   - ended, beyond a number that the cluster keeps for reading: those evicted first, then the oldest.
//
// All are force deleted, after those that did not end were marked Failed.
// Reference: https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection
package podgc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "pod-garbage-collector"

// DefaultThreshold is how many ended pods the cluster keeps.
const DefaultThreshold = 12500

const (
	quarantine    = 40 * time.Second // how long a node must be missing
	tidyDelay     = 20 * time.Second // between two counts of ended pods
	forgetMissing = time.Hour        // after which a missing node is of no interest: its pods are gone
)

// tidy is the key under which ended pods are counted. No pod has it.
var tidy = types.NamespacedName{}

type controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	indexer   cache.Indexer
	nodes     corelisters.NodeLister
	threshold int
	metrics   *metrics.PodGC

	mu      sync.Mutex
	missing map[string]time.Time // since when nodes that pods are bound to are not there; guarded by mu
}

// New returns the controller. It keeps threshold ended pods; with 0 it keeps all.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, threshold int, measured *metrics.PodGC) (reconcile.Controller, error) {
	pods := factory.Core().V1().Pods()
	nodes := factory.Core().V1().Nodes()
	if err := podcontrol.IndexByNode(pods.Informer()); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{client: client, pods: pods.Lister(), indexer: pods.Informer().GetIndexer(), nodes: nodes.Lister(), threshold: threshold, metrics: measured, missing: map[string]time.Time{}}
	return reconcile.Controller{
		Name:      "podgc",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(pods.Informer(), c.podChanged),
			reconcile.On(nodes.Informer(), c.nodeChanged),
		},
	}, nil
}

func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	if new == nil {
		return
	}
	if c.threshold > 0 && podcontrol.Terminal(new) && (old == nil || !podcontrol.Terminal(old)) {
		q.AddAfter(tidy, tidyDelay)
	}
	bound := new.Spec.NodeName != ""
	switch {
	case new.DeletionTimestamp != nil && (old == nil || old.DeletionTimestamp == nil):
		q.Add(reconcile.KeyOf(new))
	case bound && (old == nil || old.Spec.NodeName == ""):
		if _, err := c.nodes.Get(new.Spec.NodeName); err != nil {
			q.Add(reconcile.KeyOf(new))
		}
	}
}

// nodeChanged queues the pods of a node that is gone or out of service.
func (c *controller) nodeChanged(q reconcile.Queue, old, new *corev1.Node) {
	node := new
	if new == nil {
		node = old
	}
	if old == nil || new == nil {
		c.isThere(node.Name)
	}
	if new != nil && !outOfService(new) {
		return
	}
	pods, err := podcontrol.ByNode(c.indexer, node.Name)
	if err != nil {
		return
	}
	for _, pod := range pods {
		q.Add(reconcile.KeyOf(pod))
	}
}

func outOfService(node *corev1.Node) bool {
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// Reconcile deletes a pod if there is a reason to.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	if key == tidy {
		return reconcile.Result{}, c.deleteEnded(ctx)
	}
	pod, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if pod.Spec.NodeName == "" {
		if pod.DeletionTimestamp == nil {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, c.forceDelete(ctx, pod, "unscheduled", nil)
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	switch {
	case apierrors.IsNotFound(err):
		return c.deleteOrphan(ctx, pod)
	case err != nil:
		return reconcile.Result{}, err
	case pod.DeletionTimestamp != nil && outOfService(node):
		return reconcile.Result{}, c.forceDelete(ctx, pod, "out-of-service", nil)
	}
	return reconcile.Result{}, nil
}

// isThere notes that a node is there, or has been until now: the quarantine of the next absence begins with it.
func (c *controller) isThere(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.missing, node)
}

// quarantineLeft is how long pods of a node that is not there are still to be kept. The clock's being set does not matter.
func (c *controller) quarantineLeft(node string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	since, known := c.missing[node]
	if !known {
		maps.DeleteFunc(c.missing, func(_ string, since time.Time) bool { return now.Sub(since) > forgetMissing })
		since = now
		c.missing[node] = now
	}
	return quarantine - now.Sub(since)
}

// deleteOrphan deletes a pod whose node is not in the cache, after the quarantine, and once the API server has confirmed that it is gone.
func (c *controller) deleteOrphan(ctx context.Context, pod *corev1.Pod) (reconcile.Result, error) {
	if left := c.quarantineLeft(pod.Spec.NodeName); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	_, err := c.client.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if err == nil {
		return reconcile.Result{RequeueAfter: quarantine}, nil // just came (back)
	}
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("look for node %s: %w", pod.Spec.NodeName, err)
	}
	return reconcile.Result{}, c.forceDelete(ctx, pod, "orphaned", &corev1.PodCondition{
		Type:               corev1.DisruptionTarget,
		ObservedGeneration: pod.Generation,
		Status:             corev1.ConditionTrue,
		Reason:             "DeletionByPodGC",
		Message:            "PodGC: node no longer exists",
	})
}

// forceDelete is forceDeleteQuietly, counted by reason.
func (c *controller) forceDelete(ctx context.Context, pod *corev1.Pod, reason string, why *corev1.PodCondition) error {
	err := c.forceDeleteQuietly(ctx, pod, why)
	count := c.metrics.Deleted
	if err != nil {
		count = c.metrics.Failed
	}
	count.WithLabelValues(pod.Namespace, reason).Inc()
	return err
}

// forceDeleteQuietly deletes a pod without waiting for anyone. A pod that has not ended is marked Failed first, so that
// its controller counts it right.
func (c *controller) forceDeleteQuietly(ctx context.Context, pod *corev1.Pod, why *corev1.PodCondition) error {
	klog.FromContext(ctx).Info("PodGC is force deleting Pod", "pod", klog.KObj(pod))
	if !podcontrol.Terminal(pod) {
		status := pod.Status.DeepCopy()
		status.Phase = corev1.PodFailed
		status.ObservedGeneration = pod.Generation
		if why != nil {
			podcontrol.SetCondition(status, *why)
		}
		if err := podcontrol.PatchStatus(ctx, c.client, pod, *status); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod as failed: %w", err)
		}
	}
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(string(pod.UID))
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod: %w", err)
	}
	return nil
}

// deleteEnded deletes ended pods until only as many as the threshold are left.
func (c *controller) deleteEnded(ctx context.Context) error {
	all, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	ended := podcontrol.Filter(all, podcontrol.Terminal)
	if len(ended) <= c.threshold {
		return nil
	}
	sortForTidying(ended)
	var errs []error
	for _, pod := range ended[:len(ended)-c.threshold] {
		errs = append(errs, c.forceDelete(ctx, pod, "terminated", nil))
	}
	return errors.Join(errs...)
}

func sortForTidying(pods []*corev1.Pod) {
	evicted := func(pod *corev1.Pod) bool {
		return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted"
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		switch {
		case evicted(a) && !evicted(b):
			return -1
		case evicted(b) && !evicted(a):
			return 1
		case a.CreationTimestamp.Equal(&b.CreationTimestamp):
			return strings.Compare(a.Name, b.Name)
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
}
