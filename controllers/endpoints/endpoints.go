// SPDX-License-Identifier: Apache-2.0

// Package endpoints keeps the Endpoints of Services with a selector, for clients that do not know
// EndpointSlices. They hold one address per pod, of the Service's first IP family, and at most 1000 of them.
// Reference: https://kubernetes.io/docs/concepts/services-networking/service/#endpoints
package endpoints

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	sliceutil "k8s.io/endpointslice/util"

	"github.com/skiff-k8s/skiff/controllers/endpointslice"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "endpoint-controller"
	Component = "endpoint-controller"

	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
	maxAddresses   = 1000
)

type controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister //nolint:staticcheck // this controller is for clients of the old API
	events    record.EventRecorder
	triggers  *sliceutil.TriggerTimeTracker
}

// New returns the controller of Endpoints.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	services := factory.Core().V1().Services()
	pods := factory.Core().V1().Pods()
	endpoints := factory.Core().V1().Endpoints()
	c := &controller{
		client:    client,
		services:  services.Lister(),
		pods:      pods.Lister(),
		endpoints: endpoints.Lister(),
		events:    events,
		triggers:  sliceutil.NewTriggerTimeTracker(),
	}
	return reconcile.Controller{
		Name:      "endpoint",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.Service](services.Informer()),
			reconcile.On(pods.Informer(), func(q reconcile.Queue, old, new *corev1.Pod) {
				for _, key := range endpointslice.ServicesOf(c.services, old, new) {
					q.Add(key)
				}
			}),
			reconcile.On(endpoints.Informer(), func(q reconcile.Queue, old, new *corev1.Endpoints) {
				// Deleted: make them again. First seen: the Service may have gone while nobody looked.
				switch {
				case new == nil:
					q.Add(reconcile.KeyOf(old))
				case old == nil && new.Labels[managedByLabel] == managedBy && new.Annotations[resourcelock.LeaderElectionRecordAnnotationKey] == "":
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
	}, nil
}

// Reconcile makes the Endpoints of a Service say what its pods are.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	service, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(key.Namespace, key.Name)
		return reconcile.Result{}, c.deleteLeftover(ctx, key)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return reconcile.Result{}, nil // has no endpoints, or somebody else manages them
	}
	pods, err := c.pods.Pods(service.Namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return reconcile.Result{}, err
	}
	triggered := c.triggers.ComputeEndpointLastChangeTriggerTime(key.Namespace, service, pods)

	current, err := c.endpoints.Endpoints(service.Namespace).Get(service.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	exists := err == nil
	if !exists {
		current = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: service.Name, Namespace: service.Namespace}}
	}
	wanted := desired(service, pods, current)
	if exists && apiequality.Semantic.DeepEqual(current.Subsets, wanted.Subsets) && maps.Equal(current.Labels, wanted.Labels) &&
		current.Annotations[corev1.EndpointsOverCapacity] == wanted.Annotations[corev1.EndpointsOverCapacity] {
		return reconcile.Result{}, nil
	}
	if triggered.IsZero() {
		delete(wanted.Annotations, corev1.EndpointsLastChangeTriggerTime)
	} else {
		wanted.Annotations[corev1.EndpointsLastChangeTriggerTime] = triggered.UTC().Format(time.RFC3339Nano)
	}
	return reconcile.Result{}, c.write(ctx, key, wanted, exists)
}

func (c *controller) write(ctx context.Context, key types.NamespacedName, endpoints *corev1.Endpoints, exists bool) error {
	var err error
	if exists {
		_, err = c.client.CoreV1().Endpoints(key.Namespace).Update(ctx, endpoints, metav1.UpdateOptions{})
	} else {
		_, err = c.client.CoreV1().Endpoints(key.Namespace).Create(ctx, endpoints, metav1.CreateOptions{})
	}
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause), apierrors.IsConflict(err), apierrors.IsAlreadyExists(err):
	case exists:
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s: %v", key, err)
	default:
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %s: %v", key, err)
	}
	if err != nil {
		return fmt.Errorf("write Endpoints: %w", err)
	}
	return nil
}

// deleteLeftover deletes the Endpoints of a Service that is gone. Nobody owns Endpoints, so nobody else does.
func (c *controller) deleteLeftover(ctx context.Context, key types.NamespacedName) error {
	if _, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name); apierrors.IsNotFound(err) {
		return nil
	}
	err := c.client.CoreV1().Endpoints(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete Endpoints of a Service that is gone: %w", err)
	}
	return nil
}
