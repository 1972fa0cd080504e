// SPDX-License-Identifier: Apache-2.0

// Package ipaddress keeps Services and the IPAddress objects that stand for their cluster IPs in agreement.
//
// The API server makes and deletes both together. What somebody else deletes or changes is put right here: a Service
// without its address gets it again, before another can; an address that no Service has is freed. An address is made a
// moment before its Service, so a young one is left alone.
// Reference: https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects
package ipaddress

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/internal/serviceip"
)

// Component is the controller's name in events. It acts as the API server itself, as upstream does it.
const Component = "ipallocator-repair-controller"

const young = time.Minute // as long as a request may take

type controller struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	ips      networkinglisters.IPAddressLister
	events   record.EventRecorder
}

// New returns the controller. Its keys are Services and, without a namespace, addresses.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	services := factory.Core().V1().Services()
	ips := factory.Networking().V1().IPAddresses()
	c := &controller{client: client, services: services.Lister(), ips: ips.Lister(), events: events}
	return reconcile.Controller{
		Name:      "ipaddresses",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(services.Informer(), func(q reconcile.Queue, old, new *corev1.Service) {
				if new != nil && (old == nil || !slices.Equal(old.Spec.ClusterIPs, new.Spec.ClusterIPs)) {
					q.Add(reconcile.KeyOf(new))
				}
			}),
			reconcile.On(ips.Informer(), func(q reconcile.Queue, old, new *networkingv1.IPAddress) {
				if new != nil {
					q.Add(reconcile.KeyOf(new))
				}
				if old != nil {
					if service, ok := serviceOf(old); ok {
						q.Add(service) // it may have lost it
					}
				}
			}),
		},
	}, nil
}

// serviceOf returns the Service that an address says it is of.
func serviceOf(ip *networkingv1.IPAddress) (types.NamespacedName, bool) {
	ref := ip.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, true
}

// Reconcile looks at a Service, or at an address.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	if key.Namespace == "" {
		return c.checkAddress(ctx, key.Name)
	}
	service, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && service.DeletionTimestamp != nil {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	for _, text := range service.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil { // "None" is no address
			if err := c.checkService(ctx, service, ip); err != nil {
				return reconcile.Result{}, err
			}
		}
	}
	return reconcile.Result{}, nil
}

// checkService makes sure that an address of a Service stands for it.
func (c *controller) checkService(ctx context.Context, service *corev1.Service, ip netip.Addr) error {
	family := serviceip.FamilyOf(ip)
	current, err := c.ips.Get(ip.String())
	if apierrors.IsNotFound(err) { // in our memory, which may be behind
		current, err = c.client.NetworkingV1().IPAddresses().Get(ctx, ip.String(), metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		c.events.Eventf(service, corev1.EventTypeWarning, "ClusterIPNotAllocated", "Cluster IP [%v]: %s is not allocated; repairing", family, ip)
		return c.create(ctx, service, ip)
	}
	if err != nil {
		return fmt.Errorf("get IPAddress %s: %w", ip, err)
	}
	owner, ok := serviceOf(current)
	if ok && owner == reconcile.KeyOf(service) {
		if current.Labels[networkingv1.LabelManagedBy] == serviceip.ManagedBy && current.Labels[networkingv1.LabelIPAddressFamily] == string(family) {
			return nil
		}
	} else {
		if other, err := c.services.Services(owner.Namespace).Get(owner.Name); ok && err == nil && slices.Contains(other.Spec.ClusterIPs, ip.String()) {
			c.events.Eventf(service, corev1.EventTypeWarning, "ClusterIPAlreadyAllocated", "Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, ip)
			return nil
		}
		c.events.Eventf(service, corev1.EventTypeWarning, "ClusterIPNotAllocated", "the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing",
			family, ip, service.Namespace, service.Name)
	}
	if err := c.delete(ctx, current); err != nil {
		return err
	}
	return c.create(ctx, service, ip)
}

func (c *controller) create(ctx context.Context, service *corev1.Service, ip netip.Addr) error {
	_, err := c.client.NetworkingV1().IPAddresses().Create(ctx, serviceip.New(service, ip), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create IPAddress %s: %w", ip, err)
	}
	return nil
}

func (c *controller) delete(ctx context.Context, ip *networkingv1.IPAddress) error {
	err := c.client.NetworkingV1().IPAddresses().Delete(ctx, ip.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(ip.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete IPAddress %s: %w", ip.Name, err)
	}
	return nil
}

// checkAddress frees an address that no Service has.
func (c *controller) checkAddress(ctx context.Context, name string) (reconcile.Result, error) {
	ip, err := c.ips.Get(name)
	if apierrors.IsNotFound(err) || err == nil && ip.Labels[networkingv1.LabelManagedBy] != serviceip.ManagedBy {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	owner, ok := serviceOf(ip)
	if !ok {
		c.events.Eventf(ip, corev1.EventTypeWarning, "IPAddressNotAllocated", "IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", name, ip.Spec.ParentRef)
		return reconcile.Result{}, c.delete(ctx, ip)
	}
	service, err := c.services.Services(owner.Namespace).Get(owner.Name)
	if err == nil && slices.Contains(service.Spec.ClusterIPs, name) {
		return reconcile.Result{}, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	if left := reconcile.Left(ip.CreationTimestamp.Time, young); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	if err == nil {
		c.events.Eventf(ip, corev1.EventTypeWarning, "IPAddressWrongReference", "IPAddress: %s for Service %s has a wrong reference; cleaning up", name, owner)
	} else {
		c.events.Eventf(ip, corev1.EventTypeWarning, "IPAddressNotAllocated", "IPAddress: %s for Service %s appears to have leaked: cleaning up", name, owner)
	}
	return reconcile.Result{}, c.delete(ctx, ip)
}
