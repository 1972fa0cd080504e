// SPDX-License-Identifier: Apache-2.0

// Package allocation gives Services their cluster IPs and node ports, and takes them back.
//
// An address that is in use is an IPAddress object, whose name is the address: creating it is the
// allocation, so two Services never get the same one. Addresses come out of the ServiceCIDR objects that
// are ready (KEP-1880). Node ports, health check ports included, are bits of one RangeAllocation object, which lies where upstream
// keeps it. Both ranges have a lower band that is left to those who ask for a certain address or port, as
// long as there is another (KEP-3070, KEP-3668).
//
// An Allocator hooks into the store of Services. What a write takes is taken before the Service is written
// and given back if that fails; what it frees is freed after. A process that dies between the two leaves
// something behind that no Service has: Repair, before the first write, puts that right. Where other servers write,
// RepairBesideOthers does.
//
// Everything here works below the API, on the resources' stores: a ClusterIP costs one more write to etcd and
// no request.
package allocation

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/serviceip"
	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// Config says which addresses and ports a cluster has for Services.
type Config struct {
	// ServiceCIDRs has one prefix or, in a dual-stack cluster, one of each family. Their families are what
	// Services may ask for, the first is what they get unasked. Which addresses there are is read from
	// ServiceCIDR objects.
	ServiceCIDRs []netip.Prefix
	// FirstNodePort and LastNodePort are the range of node ports.
	FirstNodePort, LastNodePort int
}

// Stores is where an Allocator reads and writes.
type Stores struct {
	Services, IPAddresses, ServiceCIDRs *rest.Store
	// Ranges holds RangeAllocation objects.
	Ranges storage.Interface
}

// Allocator serves the store of Services. It has no state but in Stores.
type Allocator struct {
	families  []corev1.IPFamily // the cluster's; the first is the default
	addresses addresses
	ports     ports
	services  *rest.Store
	// life is the context of what happens after a request: releases upon a delete.
	life context.Context
}

var _ core.ServiceAllocator = &Allocator{}

// New returns an Allocator that works once it is open.
func New(cfg Config) (*Allocator, error) {
	a := &Allocator{}
	for _, prefix := range cfg.ServiceCIDRs {
		a.families = append(a.families, serviceip.FamilyOf(prefix.Addr()))
	}
	if len(a.families) == 0 || len(a.families) > 2 || len(a.families) == 2 && a.families[0] == a.families[1] {
		return nil, fmt.Errorf("service CIDRs %v: want one, or one of each IP family", cfg.ServiceCIDRs)
	}
	if cfg.FirstNodePort < 1 || cfg.LastNodePort < cfg.FirstNodePort {
		return nil, fmt.Errorf("node ports %d-%d are not a range", cfg.FirstNodePort, cfg.LastNodePort)
	}
	a.ports.first, a.ports.size = cfg.FirstNodePort, cfg.LastNodePort-cfg.FirstNodePort+1
	return a, nil
}

// Open lets the Allocator work on stores. ctx carries values only: what is to be given back is given back
// after it has ended, too.
func (a *Allocator) Open(ctx context.Context, stores Stores) {
	a.life = context.WithoutCancel(ctx)
	a.services = stores.Services
	a.addresses.ips, a.addresses.cidrs = stores.IPAddresses, stores.ServiceCIDRs
	a.ports.ranges = stores.Ranges
}

// change is what one write of a Service does to addresses and ports.
type change struct {
	service    *corev1.Service
	taken      []netip.Addr // given back if the write fails
	freed      []netip.Addr // given back once it succeeds
	takenPorts []int32
	freedPorts []int32
}

// BeginCreate allocates what s asks for.
func (a *Allocator) BeginCreate(ctx context.Context, s *corev1.Service, options *metav1.CreateOptions) (registry.FinishFunc, error) {
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP} // old clients know the one field only
	}
	return a.begin(ctx, s, nil, dryrun.IsDryRun(options.DryRun))
}

// BeginUpdate allocates what s asks for and old did not have.
func (a *Allocator) BeginUpdate(ctx context.Context, s, old *corev1.Service, options *metav1.UpdateOptions) (registry.FinishFunc, error) {
	if equality.Semantic.DeepEqual(s.Spec, old.Spec) { // status, labels and the like
		return func(context.Context, bool) {}, nil
	}
	keepAllocated(s, old)
	normalizeClusterIPs(s, old)
	return a.begin(ctx, s, old, dryrun.IsDryRun(options.DryRun))
}

func (a *Allocator) begin(ctx context.Context, s, old *corev1.Service, dryRun bool) (registry.FinishFunc, error) {
	if err := a.setFamilies(s, old); err != nil {
		return nil, err
	}
	ctx = genericapirequest.WithNamespace(ctx, metav1.NamespaceNone)
	c := &change{service: s}
	err := a.allocateAddresses(ctx, c, old, dryRun)
	if err == nil {
		err = a.allocatePorts(ctx, c, old, dryRun)
	}
	finish := func(ctx context.Context, success bool) {
		if !dryRun {
			a.finish(ctx, c, success)
		}
	}
	if err != nil {
		finish(ctx, false)
		return nil, err
	}
	return finish, nil
}

// finish gives back what the write did not need or does not need any more.
func (a *Allocator) finish(ctx context.Context, c *change, success bool) {
	ips, ports := c.taken, c.takenPorts
	if success {
		ips, ports = c.freed, c.freedPorts
	}
	a.release(ctx, c.service, ips, ports)
}

// AfterDelete gives back everything s had.
func (a *Allocator) AfterDelete(s *corev1.Service, options *metav1.DeleteOptions) {
	if dryrun.IsDryRun(options.DryRun) {
		return
	}
	ports := nodePorts(s)
	if needsHealthCheck(s) && s.Spec.HealthCheckNodePort != 0 {
		ports = append(ports, s.Spec.HealthCheckNodePort)
	}
	a.release(a.life, s, addressesOf(s), ports)
}

// release gives ips and ports back, though the request is over. What fails is left to the next Repair.
func (a *Allocator) release(ctx context.Context, s *corev1.Service, ips []netip.Addr, ports []int32) {
	ctx = genericapirequest.WithNamespace(context.WithoutCancel(ctx), metav1.NamespaceNone)
	logger := klog.FromContext(ctx)
	for _, ip := range ips {
		if err := a.addresses.release(ctx, ip, s); err != nil {
			logger.Error(err, "Releasing a cluster IP", "service", klog.KObj(s), "ip", ip)
		}
	}
	if err := a.ports.release(ctx, ports); err != nil {
		logger.Error(err, "Releasing node ports", "service", klog.KObj(s), "ports", ports)
	}
}
