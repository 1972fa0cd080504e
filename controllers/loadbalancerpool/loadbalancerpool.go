// SPDX-License-Identifier: Apache-2.0

// Package loadbalancerpool gives Services of type LoadBalancer an address of their own, from a pool.
//
// It only writes status.loadBalancer, and the finalizer that goes with it. The nodes make the address known on their network (package announce), and their
// Service proxies take what is sent there. A Service keeps its address for as long as it lives, unless it asks for
// another: by spec.loadBalancerIP, or by the annotation Annotation for one of each family.
//
// A Service with spec.loadBalancerClass is somebody else's.
// Reference: https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer
package loadbalancerpool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/network/addresspool"
	"github.com/skiff-k8s/skiff/network/loadbalancer"
)

// Name is the controller's identity and its name in events: upstream's for who gives Services their addresses.
const Name = "service-controller"

// Annotation has the addresses that a Service wants, separated by commas.
const Annotation = "skiff.io/load-balancer-ips"

type controller struct {
	pool     addresspool.Pool
	client   kubernetes.Interface
	services corelisters.ServiceLister
	events   record.EventRecorder
}

// all is the one key: who gets an address depends on all Services.
var all = types.NamespacedName{Name: "all"}

// New returns the controller.
func New(pool addresspool.Pool, client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) reconcile.Controller {
	services := factory.Core().V1().Services()
	c := &controller{pool: pool, client: client, services: services.Lister(), events: events}
	return reconcile.Controller{
		Name:      "service_lb_pool",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(services.Informer(), func(q reconcile.Queue, old, new *corev1.Service) {
				if loadbalancer.IsOurs(old) || loadbalancer.IsOurs(new) {
					q.Add(all)
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{services.Informer()},
	}
}

// Reconcile writes the addresses of all Services where they differ.
func (c *controller) Reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	services, leaving := loadbalancer.Split(services)
	errs := []error{loadbalancer.LetGo(ctx, c.client, leaving)}
	given := allocate(c.pool, services)
	for _, svc := range services {
		g := given[svc]
		if g.problem != "" {
			c.events.Event(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", g.problem)
		}
		errs = append(errs, c.write(ctx, svc, g.addresses))
	}
	return reconcile.Result{}, errors.Join(errs...)
}

func (c *controller) write(ctx context.Context, svc *corev1.Service, addresses []netip.Addr) error {
	var ingress []corev1.LoadBalancerIngress
	for _, addr := range addresses {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: addr.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return loadbalancer.Give(ctx, c.client, svc, ingress)
}

// given is what a Service gets, at most one address of each family, and why it does not get all.
type given struct {
	addresses []netip.Addr
	problem   string
}

// allocation is an allocation being made.
type allocation struct {
	pool  addresspool.Pool
	taken map[netip.Addr]*corev1.Service
}

// allocate decides for all Services. What a Service has it keeps, then come those that ask for an address, then all others;
// older ones first.
func allocate(pool addresspool.Pool, services []*corev1.Service) map[*corev1.Service]given {
	services = slices.SortedFunc(slices.Values(services), reconcile.OlderFirst)
	a := allocation{pool: pool, taken: map[netip.Addr]*corev1.Service{}}
	out := map[*corev1.Service]given{}
	for _, step := range []func(svc *corev1.Service, ipv4 bool) (netip.Addr, string){a.kept, a.requested, a.free} {
		for _, svc := range services {
			g := out[svc]
			for _, family := range svc.Spec.IPFamilies {
				ipv4 := family == corev1.IPv4Protocol
				if slices.ContainsFunc(g.addresses, func(addr netip.Addr) bool { return addr.Is4() == ipv4 }) {
					continue
				}
				addr, problem := step(svc, ipv4)
				if addr.IsValid() {
					a.taken[addr] = svc
					g.addresses = append(g.addresses, addr)
				}
				g.problem = cmp.Or(g.problem, problem)
			}
			out[svc] = g
		}
	}
	for svc, g := range out { // in the order of the Service's families
		slices.SortStableFunc(g.addresses, func(x, y netip.Addr) int { return familyIndex(svc, x) - familyIndex(svc, y) })
	}
	return out
}

func familyIndex(svc *corev1.Service, addr netip.Addr) int {
	return slices.IndexFunc(svc.Spec.IPFamilies, func(f corev1.IPFamily) bool { return (f == corev1.IPv4Protocol) == addr.Is4() })
}

// wanted is the address of a family that a Service asks for; not valid if it leaves that open.
func wanted(svc *corev1.Service, ipv4 bool) netip.Addr {
	asked := svc.Spec.LoadBalancerIP //nolint:staticcheck // deprecated, and in use
	if annotation := svc.Annotations[Annotation]; annotation != "" {
		asked = annotation
	}
	for text := range strings.SplitSeq(asked, ",") {
		if addr, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil && addr.Is4() == ipv4 {
			return addr
		}
	}
	return netip.Addr{}
}

// kept is what the Service has, if it may have it and does not want another.
func (a *allocation) kept(svc *corev1.Service, ipv4 bool) (netip.Addr, string) {
	want := wanted(svc, ipv4)
	for _, in := range svc.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(in.IP)
		if err == nil && addr.Is4() == ipv4 && a.pool.Contains(addr) && a.taken[addr] == nil && (!want.IsValid() || want == addr) {
			return addr, ""
		}
	}
	return netip.Addr{}, ""
}

// requested is what the Service asks for.
func (a *allocation) requested(svc *corev1.Service, ipv4 bool) (netip.Addr, string) {
	want := wanted(svc, ipv4)
	switch other := a.taken[want]; {
	case !want.IsValid():
		return want, ""
	case !a.pool.Contains(want):
		return netip.Addr{}, fmt.Sprintf("address %s is not in the pool of load balancer addresses", want)
	case other != nil:
		return netip.Addr{}, fmt.Sprintf("address %s belongs to Service %s/%s", want, other.Namespace, other.Name)
	}
	return want, ""
}

// free is an address that nobody has, for those that leave it open.
func (a *allocation) free(svc *corev1.Service, ipv4 bool) (netip.Addr, string) {
	if wanted(svc, ipv4).IsValid() {
		return netip.Addr{}, ""
	}
	for addr := range a.pool.All(ipv4) {
		if a.taken[addr] == nil {
			return addr, ""
		}
	}
	family := corev1.IPv6Protocol
	if ipv4 {
		family = corev1.IPv4Protocol
	}
	if len(svc.Spec.IPFamilies) > 1 && !slices.ContainsFunc(a.pool, func(r addresspool.Range) bool { return r.First.Is4() == ipv4 }) {
		return netip.Addr{}, "" // a pool of one family serves those that have both
	}
	return netip.Addr{}, fmt.Sprintf("no %s address is left in the pool of load balancer addresses", family)
}
