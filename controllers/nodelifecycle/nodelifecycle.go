// SPDX-License-Identifier: Apache-2.0

// Package nodelifecycle judges whether nodes are alive and says so in conditions and taints.
//
// A kubelet shows that it lives by renewing its Lease or writing its status. One that has not for the grace
// period gets its conditions set to Unknown. Conditions become taints: NoSchedule at once, for the scheduler;
// NoExecute for nodes that are not ready, at a limited rate per zone, because evicting everything when it is
// the network or the judge that is broken does more harm than good. Package tainteviction acts on NoExecute.
//
// There is no polling: a node is looked at when it changes, and when its grace period would end.
// Reference: https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller
package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
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

// Name is the controller's identity, Component its name in events.
const (
	Name      = "node-controller"
	Component = "node-controller"
)

// How long a node may be silent.
const (
	gracePeriod        = 50 * time.Second
	startupGracePeriod = 60 * time.Second // before its first status
)

type controller struct {
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	pods    cache.Indexer
	events  record.EventRecorder
	metrics *metrics.Nodes

	mu    sync.Mutex // guards what follows
	known map[string]*health
	zones *zones
}

// health is what was seen of a node.
type health struct {
	alive time.Time        // when its last sign of life was seen, by our clock
	renew metav1.MicroTime // of its Lease, as last seen, by the node's clock, which may be set back
	lease string           // resourceVersion of that Lease
	ready corev1.ConditionStatus
	// podsToMark says that the node stopped being ready, and not all of its pods have been told.
	podsToMark bool
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Nodes) (reconcile.Controller, error) {
	nodes := factory.Core().V1().Nodes()
	pods := factory.Core().V1().Pods().Informer()
	if err := podcontrol.IndexByNode(pods); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{
		client:  client,
		nodes:   nodes.Lister(),
		pods:    pods.GetIndexer(),
		events:  events,
		metrics: measured,
		known:   map[string]*health{},
		zones:   newZones(),
	}
	return reconcile.Controller{
		Name:      "node_lifecycle_controller",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(nodes.Informer(), c.nodeChanged),
			reconcile.On(factory.Coordination().V1().Leases().Informer(), c.leaseChanged),
		},
		Reads: []cache.SharedIndexInformer{pods},
	}, nil
}

// nodeChanged takes a new status as a sign of life. What one node's readiness means for its taints depends on
// the others', so when it changes all are looked at.
func (c *controller) nodeChanged(q reconcile.Queue, old, new *corev1.Node) {
	if new == nil {
		c.forget(old)
		c.queueAll(q)
		return
	}
	if old == nil {
		c.recordEvent(new, "RegisteredNode", fmt.Sprintf("Registered Node %v in Controller", new.Name))
	}
	if old == nil || heartbeat(old) != heartbeat(new) {
		c.seen(new.Name)
	}
	q.Add(reconcile.KeyOf(new))
	if old == nil || readyStatus(old) != readyStatus(new) {
		c.queueAll(q)
	}
}

func heartbeat(node *corev1.Node) metav1.Time {
	if ready := condition(&node.Status, corev1.NodeReady); ready != nil {
		return ready.LastHeartbeatTime
	}
	return metav1.Time{}
}

func (c *controller) queueAll(q reconcile.Queue) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, node := range nodes {
		q.Add(reconcile.KeyOf(node))
	}
}

func (c *controller) leaseChanged(_ reconcile.Queue, _, new *coordinationv1.Lease) {
	if new == nil || new.Namespace != corev1.NamespaceNodeLease || new.Spec.RenewTime == nil {
		return
	}
	c.renewed(new)
}

// renewed notes a Lease and tells whether it was renewed since the last one that was seen. Which of two is the later one
// does not depend on the node's clock.
func (c *controller) renewed(lease *coordinationv1.Lease) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.healthLocked(lease.Name)
	if lease.Spec.RenewTime == nil || h.renew.Equal(lease.Spec.RenewTime) {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(lease.ResourceVersion, h.lease)
	if err == nil && order <= 0 {
		return false
	}
	h.renew, h.lease, h.alive = *lease.Spec.RenewTime, lease.ResourceVersion, time.Now()
	return true
}

func (c *controller) seen(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.healthLocked(node).alive = time.Now()
}

func (c *controller) healthLocked(node string) *health {
	h := c.known[node]
	if h == nil {
		h = &health{alive: time.Now()}
		c.known[node] = h
	}
	return h
}

func (c *controller) forget(node *corev1.Node) {
	c.mu.Lock()
	delete(c.known, node.Name)
	delete(c.zones.granted, node.Name)
	c.mu.Unlock()
	c.recordEvent(node, "RemovingNode", fmt.Sprintf("Removing Node %v from Controller", node.Name))
}

// Reconcile judges a node, and brings its taints in line with its conditions.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	node := cached.DeepCopy()
	defer func(start time.Time) { c.metrics.UpdateDuration.Observe(time.Since(start).Seconds()) }(time.Now())

	left := c.graceLeft(node)
	if left <= 0 {
		alive, err := c.reallySilent(ctx, node.Name)
		if err != nil {
			return reconcile.Result{}, err
		}
		if alive {
			left = c.graceLeft(node)
		} else if setUnknown(&node.Status, node.CreationTimestamp, time.Now()) {
			if node, err = c.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
				return reconcile.Result{}, fmt.Errorf("set conditions to Unknown: %w", err)
			}
		}
	}
	if err := c.noteReadiness(ctx, node); err != nil {
		return reconcile.Result{}, err
	}
	wait, err := c.taint(ctx, node)
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: reconcile.Earlier(left, wait)}, nil
}

// graceLeft is how long the node may stay silent from now on.
func (c *controller) graceLeft(node *corev1.Node) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	alive := c.healthLocked(node.Name).alive
	if condition(&node.Status, corev1.NodeReady) == nil {
		return time.Until(node.CreationTimestamp.Add(startupGracePeriod))
	}
	return time.Until(alive.Add(gracePeriod))
}

// reallySilent asks the API server, in case it is our watch that is behind and not the node.
func (c *controller) reallySilent(ctx context.Context, node string) (alive bool, err error) {
	lease, err := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the node's Lease: %w", err)
	}
	return c.renewed(lease), nil
}

// noteReadiness tells when a node stopped being ready; its pods then are not ready either. If its kubelet is
// silent, that goes for pods that are bound to it later too.
func (c *controller) noteReadiness(ctx context.Context, node *corev1.Node) error {
	now := readyStatus(node)
	c.mu.Lock()
	h := c.healthLocked(node.Name)
	before := h.ready
	h.ready = now
	stopped := before == corev1.ConditionTrue && now != corev1.ConditionTrue
	h.podsToMark = now != corev1.ConditionTrue && (stopped || h.podsToMark)
	mark := h.podsToMark || now == corev1.ConditionUnknown
	c.mu.Unlock()
	if stopped {
		c.events.Eventf(nodeRef(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", node.Name, "NodeNotReady")
	}
	if !mark {
		return nil
	}
	pods, err := podcontrol.ByNode(c.pods, node.Name)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		if err := c.markNotReady(ctx, pod); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.healthLocked(node.Name).podsToMark = false
	return nil
}

func (c *controller) markNotReady(ctx context.Context, pod *corev1.Pod) error {
	ready := podcontrol.Condition(pod, corev1.PodReady)
	if ready == nil || ready.Status != corev1.ConditionTrue {
		return nil
	}
	status := pod.Status.DeepCopy()
	notReady := *ready
	notReady.Status = corev1.ConditionFalse
	notReady.ObservedGeneration = pod.Generation
	podcontrol.SetCondition(status, notReady)
	err := podcontrol.PatchStatus(ctx, c.client, pod, *status)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark pod %s/%s as not ready: %w", pod.Namespace, pod.Name, err)
	}
	c.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	return nil
}

// taint brings taints and old labels up to date. It returns in how long to try again what the zone's rate forbids now.
func (c *controller) taint(ctx context.Context, node *corev1.Node) (time.Duration, error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return 0, err
	}
	c.mu.Lock()
	verdict, recovered := c.zones.judge(nodes)
	c.count(verdict)
	if recovered {
		// All nodes were gone and some are back: it was not the nodes. The others get their grace again.
		for _, h := range c.known {
			h.alive = time.Now()
		}
	}
	if verdict.allDown || noExecuteKey(node) == "" {
		delete(c.zones.granted, node.Name)
	}
	taints, wait := withTaints(node, verdict, c.zones.reserve, time.Now())
	c.mu.Unlock()

	patch := map[string]any{}
	if !sameTaints(node.Spec.Taints, taints) {
		patch["spec"] = map[string]any{"taints": taints}
	}
	metadata := map[string]any{"resourceVersion": node.ResourceVersion}
	if legacy := legacyLabels(node); len(legacy) > 0 {
		metadata["labels"] = legacy
	} else if len(patch) == 0 {
		return wait, nil
	}
	patch["metadata"] = metadata
	data, err := json.Marshal(patch)
	if err != nil {
		return 0, err
	}
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, data, metav1.PatchOptions{}); err != nil {
		return 0, fmt.Errorf("patch taints: %w", err)
	}
	if evicts(taints) && !evicts(node.Spec.Taints) {
		c.metrics.Evictions.WithLabelValues(zoneOf(node)).Inc()
	}
	klog.FromContext(ctx).V(2).Info("Changed taints", "taints", taints)
	return wait, nil
}

// count measures the zones.
func (c *controller) count(v verdict) {
	for zone, n := range v.zones {
		c.metrics.ZoneSize.WithLabelValues(zone).Set(float64(n.ready + n.notReady))
		c.metrics.Unhealthy.WithLabelValues(zone).Set(float64(n.notReady))
		c.metrics.ZoneHealth.WithLabelValues(zone).Set(100 * float64(n.ready) / float64(n.ready+n.notReady))
	}
}

// legacyLabels returns labels that must follow newer ones and do not.
func legacyLabels(node *corev1.Node) map[string]string {
	changed := map[string]string{}
	for current, legacy := range map[string]string{
		corev1.LabelOSStable:   "beta.kubernetes.io/os",
		corev1.LabelArchStable: "beta.kubernetes.io/arch",
	} {
		if value, ok := node.Labels[current]; ok && node.Labels[legacy] != value {
			changed[legacy] = value
		}
	}
	return changed
}

// nodeRef is how events name a node. Their namespace is that of the kubelet's events: none.
func nodeRef(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}

func (c *controller) recordEvent(node *corev1.Node, reason, message string) {
	c.events.Eventf(nodeRef(node), corev1.EventTypeNormal, reason, "Node %s event: %s", node.Name, message)
}
