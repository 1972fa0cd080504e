// SPDX-License-Identifier: Apache-2.0

// Package endpointslicemirroring copies Endpoints that users keep by hand into EndpointSlices, which is all that
// proxies and DNS read.
//
// Endpoints are mirrored if their Service exists and has no selector, and if they neither ask to be left alone
// nor are a lock of leader election. What the slices must say is decided in mirror.go; this file watches, writes,
// and takes away what is mirrored no more.
// Reference: https://kubernetes.io/docs/concepts/services-networking/service/#endpoints
package endpointslicemirroring

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	sliceutil "k8s.io/endpointslice/util"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "endpointslicemirroring-controller"
	Component = "endpoint-slice-mirroring-controller"

	managedBy = "endpointslicemirroring-controller.k8s.io" // in the label of the slices
)

type controller struct {
	client    kubernetes.Interface
	endpoints corelisters.EndpointsLister
	services  corelisters.ServiceLister
	slices    discoverylisters.EndpointSliceLister
	events    record.EventRecorder
	tracker   *sliceutil.EndpointSliceTracker // of our own writes that the cache may not have yet
	metrics   *metrics.Mirroring

	mu    sync.Mutex
	sizes map[types.NamespacedName]size // of what is mirrored; guarded by mu
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Mirroring) (reconcile.Controller, error) {
	endpoints := factory.Core().V1().Endpoints()
	services := factory.Core().V1().Services()
	slices := factory.Discovery().V1().EndpointSlices()
	c := &controller{
		client: client, endpoints: endpoints.Lister(), services: services.Lister(), slices: slices.Lister(), events: events,
		tracker: sliceutil.NewEndpointSliceTracker(), metrics: measured, sizes: map[types.NamespacedName]size{},
	}
	return reconcile.Controller{
		Name:       "endpoint_slice_mirroring",
		Reconcile:  c.Reconcile,
		MinBackoff: time.Second,
		MaxBackoff: 100 * time.Second,
		Watches: []reconcile.Watch{
			reconcile.On(endpoints.Informer(), func(q reconcile.Queue, old, new *corev1.Endpoints) {
				if wantsMirror(old) || wantsMirror(new) {
					q.Add(keyOf(old, new))
				}
			}),
			reconcile.On(services.Informer(), func(q reconcile.Queue, old, new *corev1.Service) {
				if hasNoSelector(old) != hasNoSelector(new) {
					q.Add(keyOf(old, new))
				}
			}),
			reconcile.On(slices.Informer(), func(q reconcile.Queue, old, new *discoveryv1.EndpointSlice) {
				for _, slice := range []*discoveryv1.EndpointSlice{old, new} {
					if slice != nil && slice.Labels[discoveryv1.LabelManagedBy] == managedBy {
						q.Add(types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]})
					}
				}
			}),
		},
	}, nil
}

// keyOf returns the key of an object as it is, or as it was.
func keyOf[T interface {
	comparable
	metav1.Object
}](old, new T) types.NamespacedName {
	var none T
	if new == none {
		new = old
	}
	return reconcile.KeyOf(new)
}

func hasNoSelector(service *corev1.Service) bool {
	return service != nil && service.Spec.Selector == nil
}

// wantsMirror is false for Endpoints that say that they are none of our business.
func wantsMirror(endpoints *corev1.Endpoints) bool {
	if endpoints == nil || endpoints.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return false
	}
	_, isLock := endpoints.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return !isLock
}

// Reconcile makes the slices say what the Endpoints do.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	defer func(start time.Time) {
		c.metrics.SyncDuration.WithLabelValues().Observe(time.Since(start).Seconds())
	}(time.Now())
	existing, err := c.slices.EndpointSlices(key.Namespace).List(labels.SelectorFromValidatedSet(labels.Set{
		discoveryv1.LabelServiceName: key.Name,
		discoveryv1.LabelManagedBy:   managedBy,
	}))
	if err != nil {
		return reconcile.Result{}, err
	}
	endpoints, service, err := c.find(key)
	if err != nil {
		return reconcile.Result{}, err
	}
	if endpoints == nil {
		c.tracker.DeleteService(key.Namespace, key.Name)
		c.resize(key, size{})
		return reconcile.Result{}, c.remove(ctx, existing)
	}
	if c.tracker.StaleSlices(service, existing) {
		return reconcile.Result{}, fmt.Errorf("EndpointSlices of Endpoints: %w", reconcile.ErrStale)
	}
	wanted := mirror(endpoints)
	c.complain(endpoints, wanted)
	todo := diff(endpoints, wanted.groups, existing)
	c.measure(key, wanted, existing, todo)
	return reconcile.Result{}, c.apply(ctx, endpoints, todo)
}

// find returns the Endpoints and their Service if they are to be mirrored.
func (c *controller) find(key types.NamespacedName) (*corev1.Endpoints, *corev1.Service, error) {
	endpoints, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && !wantsMirror(endpoints) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	service, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && !hasNoSelector(service) {
		return nil, nil, nil
	}
	return endpoints, service, err
}

// complain tells the owner of the Endpoints what could not be mirrored.
func (c *controller) complain(endpoints *corev1.Endpoints, m mirrored) {
	if m.invalid > 0 {
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "InvalidIPAddress",
			"Skipped %d invalid IP addresses when mirroring to EndpointSlices", m.invalid)
	}
	if m.skipped > m.invalid {
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxAddresses, m.skipped)
	}
}

// apply writes the changes, additions first.
func (c *controller) apply(ctx context.Context, endpoints *corev1.Endpoints, todo changes) error {
	client := c.client.DiscoveryV1().EndpointSlices(endpoints.Namespace)
	if endpoints.DeletionTimestamp == nil {
		for _, slice := range todo.create {
			created, err := client.Create(ctx, slice, metav1.CreateOptions{})
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil // it would be refused again and again
			}
			if err != nil {
				return fmt.Errorf("create EndpointSlice for Endpoints %s/%s: %w", endpoints.Namespace, endpoints.Name, err)
			}
			c.tracker.Update(created)
			c.metrics.Changes.WithLabelValues("create").Inc()
		}
	}
	for _, slice := range todo.update {
		updated, err := client.Update(ctx, slice, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update EndpointSlice %s: %w", slice.Name, err)
		}
		c.tracker.Update(updated)
		c.metrics.Changes.WithLabelValues("update").Inc()
	}
	return c.remove(ctx, todo.remove)
}

func (c *controller) remove(ctx context.Context, slices []*discoveryv1.EndpointSlice) error {
	var errs []error
	for _, slice := range slices {
		c.tracker.ExpectDeletion(slice)
		err := c.client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{
			Preconditions: metav1.NewUIDPreconditions(string(slice.UID)),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete EndpointSlice %s: %w", slice.Name, err))
			continue
		}
		c.metrics.Changes.WithLabelValues("delete").Inc()
	}
	return errors.Join(errs...)
}
