// SPDX-License-Identifier: Apache-2.0

// Package servicecidr keeps a ServiceCIDR as long as addresses of Services depend on it.
//
// Each ServiceCIDR has a finalizer and says that it is Ready. One that is deleted goes when every address out of
// it lies in another range too, and after a grace period in which whoever allocates addresses learns that there is
// nothing to be had from it any more. Until then it says why it stays.
// Reference: https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects
package servicecidr

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/internal/serviceip"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "service-cidrs-controller"
	Component = "service-cidr-controller"

	finalizer    = "networking.k8s.io/service-cidr-finalizer"
	graceOfEnded = 10 * time.Second // until every allocator has seen the deletion
)

type controller struct {
	client kubernetes.Interface
	cidrs  networkinglisters.ServiceCIDRLister
	ips    networkinglisters.IPAddressLister
	events record.EventRecorder
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	cidrs := factory.Networking().V1().ServiceCIDRs()
	ips := factory.Networking().V1().IPAddresses()
	c := &controller{client: client, cidrs: cidrs.Lister(), ips: ips.Lister(), events: events}
	return reconcile.Controller{
		Name:      "servicecidrs",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(cidrs.Informer(), func(q reconcile.Queue, old, new *networkingv1.ServiceCIDR) {
				if new != nil {
					q.Add(reconcile.KeyOf(new))
				}
				if old == nil { // it may free others, which wait
					c.enqueueEnding(q)
				}
			}),
			reconcile.On(ips.Informer(), func(q reconcile.Queue, _, new *networkingv1.IPAddress) {
				if new == nil {
					c.enqueueEnding(q)
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{ips.Informer()},
	}, nil
}

// enqueueEnding queues the ranges that wait for their end.
func (c *controller) enqueueEnding(q reconcile.Queue) {
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return
	}
	for _, cidr := range all {
		if cidr.DeletionTimestamp != nil {
			q.Add(reconcile.KeyOf(cidr))
		}
	}
}

// Reconcile lets a range that is deleted go if it can, and makes any other one Ready.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cidr, err := c.cidrs.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if cidr.DeletionTimestamp != nil {
		return c.end(ctx, cidr)
	}
	if cidr, err = c.protect(ctx, cidr); err != nil {
		return reconcile.Result{}, err
	}
	err = c.say(ctx, cidr, metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
	})
	if err != nil && !apierrors.IsConflict(err) { // that is only the cache, which does not have our last write yet
		c.events.Event(cidr, corev1.EventTypeWarning, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True")
	}
	return reconcile.Result{}, err
}

// protect puts the finalizer on.
func (c *controller) protect(ctx context.Context, cidr *networkingv1.ServiceCIDR) (*networkingv1.ServiceCIDR, error) {
	if slices.Contains(cidr.Finalizers, finalizer) {
		return cidr, nil
	}
	changed := cidr.DeepCopy()
	changed.Finalizers = append(changed.Finalizers, finalizer)
	changed, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("protect ServiceCIDR %s: %w", cidr.Name, err)
	}
	return changed, nil
}

// end takes the finalizer off if nothing depends on the range any more.
func (c *controller) end(ctx context.Context, cidr *networkingv1.ServiceCIDR) (reconcile.Result, error) {
	if !slices.Contains(cidr.Finalizers, finalizer) {
		return reconcile.Result{}, nil
	}
	needed, err := c.isNeeded(cidr)
	if err != nil {
		return reconcile.Result{}, err
	}
	if needed {
		return reconcile.Result{}, c.say(ctx, cidr, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	}
	if left := reconcile.Left(cidr.DeletionTimestamp.Time, graceOfEnded); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	changed := cidr.DeepCopy()
	changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == finalizer })
	_, err = c.client.NetworkingV1().ServiceCIDRs().Update(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("let ServiceCIDR %s go: %w", cidr.Name, err)
	}
	return reconcile.Result{}, nil
}

// say sets the condition, unless it says so already.
func (c *controller) say(ctx context.Context, cidr *networkingv1.ServiceCIDR, condition metav1.Condition) error {
	changed := cidr.DeepCopy()
	if !meta.SetStatusCondition(&changed.Status.Conditions, condition) {
		return nil
	}
	if _, err := c.client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set the condition of ServiceCIDR %s: %w", cidr.Name, err)
	}
	return nil
}

// isNeeded tells whether some Service's address would be in no range without this one.
func (c *controller) isNeeded(cidr *networkingv1.ServiceCIDR) (bool, error) {
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return false, err
	}
	ips, err := c.ips.List(labels.SelectorFromValidatedSet(labels.Set{networkingv1.LabelManagedBy: serviceip.ManagedBy}))
	if err != nil {
		return false, err
	}
	mine, others := ranges{}, ranges{}
	for _, other := range all {
		if other.Name == cidr.Name {
			mine.add(other)
		} else {
			others.add(other)
		}
	}
	return slices.ContainsFunc(ips, func(ip *networkingv1.IPAddress) bool {
		addr, err := netip.ParseAddr(ip.Name)
		return err == nil && mine.have(addr) && !others.have(addr)
	}), nil
}

// ranges are those of one or more ServiceCIDRs.
type ranges []netip.Prefix

func (r *ranges) add(cidr *networkingv1.ServiceCIDR) {
	for _, text := range cidr.Spec.CIDRs {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			*r = append(*r, prefix.Masked())
		}
	}
}

// have tells whether addr could come out of one of the ranges.
func (r ranges) have(addr netip.Addr) bool {
	return slices.ContainsFunc(r, func(p netip.Prefix) bool {
		isFirst := addr == p.Addr()
		isLast := addr.Is4() && !p.Contains(addr.Next())
		return p.Contains(addr) && !isFirst && !isLast
	})
}
