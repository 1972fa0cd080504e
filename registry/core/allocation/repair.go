// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"context"
	"fmt"
	"maps"
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
	"k8s.io/apimachinery/pkg/types"
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

// repairRounds is how often RepairBesideOthers looks, as often as upstream before it frees what nobody has.
const repairRounds = 3

// RepairBesideOthers is Repair while Services are written, by other servers too. What no Service has may be on its way to
// one, and what is not written down may just have been given back: only what stays so for some times pause counts.
// One server does it at a time.
func (a *Allocator) RepairBesideOthers(ctx context.Context, pause time.Duration) error {
	var wrong *disagreement
	for round := 0; round < repairRounds; {
		now, err := a.disagreement(genericapirequest.WithNamespace(ctx, metav1.NamespaceAll))
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			klog.FromContext(ctx).Error(err, "Comparing Services with their addresses and ports, trying again")
		default:
			wrong = now.also(wrong)
			round++
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
	if err := a.settle(genericapirequest.WithNamespace(ctx, metav1.NamespaceAll), wrong); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Repairing addresses and ports of Services") // the next leader does it
	}
	return nil
}

func (a *Allocator) repair(ctx context.Context) error {
	wrong, err := a.disagreement(ctx)
	if err != nil {
		return err
	}
	return a.settle(ctx, wrong)
}

// disagreement is what of addresses and ports does not agree with the Services that there are.
type disagreement struct {
	left    map[string]types.UID // IPAddresses that no Service has
	missing map[netip.Addr]*corev1.Service

	leftPorts, missingPorts *big.Int // bits
}

// also returns what was wrong before, too; before may be nil.
func (d *disagreement) also(before *disagreement) *disagreement {
	if before == nil {
		return d
	}
	maps.DeleteFunc(d.left, func(name string, uid types.UID) bool { return before.left[name] != uid })
	maps.DeleteFunc(d.missing, func(ip netip.Addr, s *corev1.Service) bool {
		return before.missing[ip] == nil || before.missing[ip].UID != s.UID
	})
	d.leftPorts.And(d.leftPorts, before.leftPorts)
	d.missingPorts.And(d.missingPorts, before.missingPorts)
	return d
}

// disagreement compares. What is allocated is read before the Services, so that of those that are being made the
// allocation is what is seen first, if at all.
func (a *Allocator) disagreement(ctx context.Context) (*disagreement, error) {
	ips, err := a.addresses.ips.List(ctx, &internalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: serviceip.ManagedBy})})
	if err != nil {
		return nil, fmt.Errorf("list IPAddresses: %w", err)
	}
	ports := &corev1.RangeAllocation{}
	if err := a.ports.ranges.Get(ctx, rangeKey, storage.GetOptions{IgnoreNotFound: true}, ports); err != nil {
		return nil, fmt.Errorf("read the node ports: %w", err)
	}
	list, err := a.services.List(ctx, &internalversion.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list Services: %w", err)
	}
	services := list.(*corev1.ServiceList).Items
	d := &disagreement{left: map[string]types.UID{}, missing: map[netip.Addr]*corev1.Service{}}
	d.compareAddresses(services, ips.(*networkingv1.IPAddressList).Items)
	has, used := a.ports.of(ports), a.portsOf(services)
	d.leftPorts, d.missingPorts = new(big.Int).AndNot(has, used), new(big.Int).AndNot(used, has)
	return d, nil
}

func (d *disagreement) compareAddresses(services []corev1.Service, ips []networkingv1.IPAddress) {
	for i := range services {
		for _, ip := range addressesOf(&services[i]) {
			d.missing[ip] = &services[i]
		}
	}
	for i := range ips {
		ip, err := netip.ParseAddr(ips[i].Name)
		if err != nil {
			continue
		}
		if owner := d.missing[ip]; owner != nil && belongsTo(&ips[i], owner) {
			delete(d.missing, ip)
		} else {
			d.left[ips[i].Name] = ips[i].UID
		}
	}
}

// portsOf are the bits of the ports that Services have.
func (a *Allocator) portsOf(services []corev1.Service) *big.Int {
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
	return used.bits
}

// of are the bits that are stored; none if they are those of another range.
func (p *ports) of(r *corev1.RangeAllocation) *big.Int {
	if r.Range != p.String() {
		return new(big.Int)
	}
	return new(big.Int).SetBytes(r.Data)
}

// settle frees what is left over and writes down what is missing.
func (a *Allocator) settle(ctx context.Context, d *disagreement) error {
	logger := klog.FromContext(ctx)
	for name, uid := range d.left {
		logger.Info("Freeing a cluster IP that no Service has", "ip", name)
		_, _, err := a.addresses.ips.Delete(ctx, name, genericrest.ValidateAllObjectFunc, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("free the cluster IP %s: %w", name, err)
		}
	}
	for ip, owner := range d.missing {
		if err := a.addresses.create(ctx, owner, ip); err != nil {
			logger.Error(err, "Recording a Service's cluster IP", "service", klog.KObj(owner), "ip", ip)
		}
	}
	err := a.ports.ranges.GuaranteedUpdate(ctx, rangeKey, &corev1.RangeAllocation{}, true, nil, storage.SimpleUpdate(func(o runtime.Object) (runtime.Object, error) {
		r := o.(*corev1.RangeAllocation)
		bits := a.ports.of(r)
		bits.AndNot(bits, d.leftPorts).Or(bits, d.missingPorts)
		if r.Range != a.ports.String() || new(big.Int).SetBytes(r.Data).Cmp(bits) != 0 {
			r.Range, r.Data = a.ports.String(), bits.Bytes()
		}
		return r, nil
	}), nil)
	if err != nil {
		return fmt.Errorf("repair node ports: %w", err)
	}
	return nil
}
