// SPDX-License-Identifier: Apache-2.0

// Package endpointslice keeps the EndpointSlices of Services with a selector: the addresses, ports and
// conditions of the pods that the selector matches.
//
// What a slice says, and how endpoints are spread over slices, is k8s.io/endpointslice's business; this
// package watches and calls it. Slices that others manage are left alone.
// Reference: https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
package endpointslice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	slicelib "k8s.io/endpointslice"
	slicemetrics "k8s.io/endpointslice/metrics"
	"k8s.io/endpointslice/topologycache"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "endpointslice-controller"
	Component = "endpoint-slice-controller"

	managedBy    = "endpointslice-controller.k8s.io" // in the label of the slices
	maxEndpoints = 100                               // in a slice
	changeDelay  = time.Second                       // after somebody else changed a slice of ours
)

type controller struct {
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     discoverylisters.EndpointSliceLister
	nodes      corelisters.NodeLister
	events     record.EventRecorder
	tracker    *sliceutil.EndpointSliceTracker
	triggers   *sliceutil.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *slicelib.Reconciler

	nodesChanged chan struct{} // wakes followNodes

	nodesMu  sync.Mutex
	newNodes bool // the topology cache does not know the nodes as they are; guarded by nodesMu

	mu    sync.Mutex
	stale sets.Set[types.NamespacedName] // Services that wait for our own writes to show up; guarded by mu
}

// New returns the controller of the EndpointSlices of Services.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	services := factory.Core().V1().Services()
	pods := factory.Core().V1().Pods()
	nodes := factory.Core().V1().Nodes()
	endpointSlices := factory.Discovery().V1().EndpointSlices()
	c := &controller{
		services: services.Lister(),
		pods:     pods.Lister(),
		slices:   endpointSlices.Lister(),
		nodes:    nodes.Lister(),
		events:   events,
		tracker:  sliceutil.NewEndpointSliceTracker(),
		triggers: sliceutil.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(),
		stale:    sets.New[types.NamespacedName](),

		nodesChanged: make(chan struct{}, 1),
	}
	c.reconciler = slicelib.NewReconciler(client, c.nodes, maxEndpoints, c.tracker, c.topology, events, managedBy,
		slicelib.WithPreferSameTrafficDistributionEnabled(true))
	return reconcile.Controller{
		Name:       "endpoint_slice",
		Reconcile:  c.Reconcile,
		MinBackoff: time.Second,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.Service](services.Informer()),
			reconcile.On(pods.Informer(), c.podChanged),
			reconcile.On(endpointSlices.Informer(), c.sliceChanged),
			reconcile.On(nodes.Informer(), c.nodeChanged),
		},
		Reads: []cache.SharedIndexInformer{pods.Informer(), nodes.Informer()},
		Loop:  c.followNodes,
	}, nil
}

// podChanged queues the Services that select the pod, or did.
func (c *controller) podChanged(q reconcile.Queue, old, new *corev1.Pod) {
	for _, key := range ServicesOf(c.services, old, new) {
		q.Add(key)
	}
}

// ServicesOf returns the keys of the Services whose endpoints may differ because a pod changed from old
// to new; nil stands for no pod.
func ServicesOf(services corelisters.ServiceLister, old, new *corev1.Pod) []types.NamespacedName {
	names, err := sliceutil.GetServicesToUpdate(services, sliceutil.GetPodUpdateProjectionKey(old, new))
	if err != nil {
		return nil // a Service whose selector cannot be read has no endpoints
	}
	var keys []types.NamespacedName
	for name := range names {
		if namespace, name, err := cache.SplitMetaNamespaceKey(name); err == nil {
			keys = append(keys, types.NamespacedName{Namespace: namespace, Name: name})
		}
	}
	return keys
}

// setStale notes whether a Service waits for our own writes and tells whether that is new.
func (c *controller) setStale(key types.NamespacedName, stale bool) (changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed = c.stale.Has(key) != stale
	if stale {
		c.stale.Insert(key)
	} else {
		c.stale.Delete(key)
	}
	return changed
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// sliceChanged queues the Service of a slice that is not as this controller left it, and one that waited for the
// slice to show up as it did leave it.
func (c *controller) sliceChanged(q reconcile.Queue, old, new *discoveryv1.EndpointSlice) {
	queue := func(slice *discoveryv1.EndpointSlice) {
		if key := serviceOf(slice); key.Name != "" {
			q.AddAfter(key, changeDelay)
		}
	}
	if slice := cmp.Or(new, old); c.setStale(serviceOf(slice), false) {
		q.Add(serviceOf(slice))
	}
	switch {
	case new == nil:
		if c.reconciler.ManagedByController(old) && c.tracker.Has(old) && !c.tracker.HandleDeletion(old) {
			queue(old) // it was not this controller that deleted it
		}
	case old != nil && old.Labels[discoveryv1.LabelServiceName] != new.Labels[discoveryv1.LabelServiceName]:
		queue(old)
		queue(new)
	case old != nil && c.reconciler.ManagedByChanged(old, new),
		c.reconciler.ManagedByController(new) && c.tracker.ShouldSync(new):
		queue(new)
	}
}

// nodeChanged notes that nodes have changed. The topology cache always takes all nodes, and many may change at once.
func (c *controller) nodeChanged(_ reconcile.Queue, old, new *corev1.Node) {
	if old != nil && new != nil && nodeReady(old) == nodeReady(new) &&
		old.Labels[corev1.LabelTopologyZone] == new.Labels[corev1.LabelTopologyZone] {
		return
	}
	c.nodesMu.Lock()
	c.newNodes = true
	c.nodesMu.Unlock()
	select {
	case c.nodesChanged <- struct{}{}:
	default: // it will wake anyway
	}
}

// knowNodes lets the topology cache know the nodes as they are.
func (c *controller) knowNodes() {
	c.nodesMu.Lock()
	defer c.nodesMu.Unlock()
	if !c.newNodes {
		return
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	c.newNodes = false
	c.topology.SetNodes(klog.Background(), nodes)
}

// followNodes queues Services whose hints no longer fit the nodes.
func (c *controller) followNodes(ctx context.Context, q reconcile.Queue) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.nodesChanged:
		}
		c.knowNodes()
		for _, name := range c.topology.GetOverloadedServices() {
			if namespace, name, err := cache.SplitMetaNamespaceKey(name); err == nil {
				q.Add(types.NamespacedName{Namespace: namespace, Name: name})
			}
		}
	}
}

func nodeReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// Reconcile makes the slices of a Service say what its pods are.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (_ reconcile.Result, err error) {
	defer func() { slicemetrics.EndpointSliceSyncs.WithLabelValues(outcome(err)).Inc() }()
	service, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		// The garbage collector deletes the slices: the Service owns them.
		c.triggers.DeleteService(key.Namespace, key.Name)
		c.reconciler.DeleteService(key.Namespace, key.Name)
		c.tracker.DeleteService(key.Namespace, key.Name)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return reconcile.Result{}, nil // has no endpoints, or somebody else manages them
	}
	pods, err := c.pods.Pods(service.Namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		c.events.Eventf(service, corev1.EventTypeWarning, "FailedToListPods", "Error listing Pods for Service %s: %v", key, err)
		return reconcile.Result{}, err
	}
	existing, err := c.slices.EndpointSlices(service.Namespace).List(labels.SelectorFromValidatedSet(labels.Set{
		discoveryv1.LabelServiceName: service.Name,
		discoveryv1.LabelManagedBy:   managedBy,
	}))
	if err != nil {
		c.events.Eventf(service, corev1.EventTypeWarning, "FailedToListEndpointSlices", "Error listing Endpoint Slices for Service %s: %v", key, err)
		return reconcile.Result{}, err
	}
	existing = slices.DeleteFunc(existing, func(slice *discoveryv1.EndpointSlice) bool { return slice.DeletionTimestamp != nil })
	if c.tracker.StaleSlices(service, existing) {
		c.setStale(key, true)
		return reconcile.Result{}, fmt.Errorf("EndpointSlices of Service: %w", reconcile.ErrStale)
	}
	c.knowNodes()
	triggered := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, service, pods)
	if err := c.reconciler.Reconcile(klog.FromContext(ctx), service, pods, existing, triggered); err != nil {
		c.events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, nil
}

// outcome is what the metrics say of a sync.
func outcome(err error) string {
	switch {
	case err == nil:
		return "success"
	case errors.Is(err, reconcile.ErrStale):
		return "stale"
	default:
		return "error"
	}
}
