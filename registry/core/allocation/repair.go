// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/serviceip"
)

// Repair makes addresses and ports agree with the Services that there are: what a crash left behind is
// freed, what a Service has and nobody wrote down (as in data of old) is written down. No Service may be
// written meanwhile: it runs before the API is served.
func (a *Allocator) Repair(ctx context.Context) error {
	// A watch cache that is still being filled asks for patience; the repair is as good a moment later.
	for {
		err := a.repair(genericapirequest.WithNamespace(ctx, metav1.NamespaceAll))
		if !apierrors.IsTooManyRequests(err) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (a *Allocator) repair(ctx context.Context) error {
	list, err := a.services.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Services: %w", err)
	}
	services := list.(*corev1.ServiceList).Items
	if err := a.repairAddresses(ctx, services); err != nil {
		return fmt.Errorf("repair cluster IPs: %w", err)
	}
	if err := a.repairPorts(ctx, services); err != nil {
		return fmt.Errorf("repair node ports: %w", err)
	}
	return nil
}

func (a *Allocator) repairAddresses(ctx context.Context, services []corev1.Service) error {
	owners := map[netip.Addr]*corev1.Service{}
	for i := range services {
		for _, ip := range addressesOf(&services[i]) {
			owners[ip] = &services[i]
		}
	}
	list, err := a.addresses.ips.List(ctx, &internalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: serviceip.ManagedBy})})
	if err != nil {
		return fmt.Errorf("list IPAddresses: %w", err)
	}
	logger := klog.FromContext(ctx)
	items := list.(*networkingv1.IPAddressList).Items
	for i := range items {
		ip, err := netip.ParseAddr(items[i].Name)
		if err != nil {
			continue
		}
		if owner := owners[ip]; owner != nil && belongsTo(&items[i], owner) {
			delete(owners, ip)
			continue
		}
		logger.Info("Freeing a cluster IP that no Service has", "ip", ip)
		uid := items[i].UID
		_, _, err = a.addresses.ips.Delete(ctx, items[i].Name, genericrest.ValidateAllObjectFunc, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for ip, owner := range owners { // left are those whose address is not written down
		if err := a.addresses.create(ctx, owner, ip); err != nil {
			logger.Error(err, "Recording a Service's cluster IP", "service", klog.KObj(owner), "ip", ip)
		}
	}
	return nil
}

// repairPorts sets the bits of the ports that Services have, and no others.
func (a *Allocator) repairPorts(ctx context.Context, services []corev1.Service) error {
	used := a.ports.bitmap(nil)
	for i := range services {
		s := &services[i]
		ports := nodePorts(s)
		if needsHealthCheck(s) && s.Spec.HealthCheckNodePort != 0 {
			ports = append(ports, s.Spec.HealthCheckNodePort)
		}
		for _, port := range ports {
			_ = used.take(port) // of another range, or shared by two protocols: nothing to set
		}
	}
	return a.ports.ranges.GuaranteedUpdate(ctx, rangeKey, &corev1.RangeAllocation{}, true, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		r := o.(*corev1.RangeAllocation)
		if r.Range != a.ports.String() || new(big.Int).SetBytes(r.Data).Cmp(used.bits) != 0 {
			r.Range, r.Data = a.ports.String(), used.bits.Bytes()
		}
		return r, nil
	}), nil)
}
