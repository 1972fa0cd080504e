// SPDX-License-Identifier: Apache-2.0

// Package servicelb gives Services of type LoadBalancer an address without a cloud: those of the nodes.
//
// It only writes status.loadBalancer, and the finalizer that goes with it; the Service proxy of each node takes what is sent
// to these addresses. With externalTrafficPolicy Cluster they are all ready nodes', with Local those that have an endpoint. Two Services cannot
// have the same port of a node: who has an address keeps it, else the older one gets it, and the other waits, with an
// event that says for whom. Ports that nodes need for themselves are given to nobody.
//
// A Service with spec.loadBalancerClass is somebody else's.
// Reference: https://kubernetes.io/docs/concepts/services-networking/service/#loadbalancer
package servicelb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/network/loadbalancer"
)

// Name is the controller's identity and its name in events.
const Name = "service-controller"

// Config says what nodes cannot give away.
type Config struct {
	// Reserved tells for what nodes need a TCP or UDP port now; "" if they do not. Optional.
	Reserved func(port int32) string
}

type controller struct {
	cfg      Config
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	events   record.EventRecorder
	told     map[types.UID]string // why a Service has no address, as events have told; only Reconcile uses it
}

// lookAgain is when to see whether a node still needs a port that a Service wants: nobody tells.
const lookAgain = 30 * time.Second

// all is the one key: who gets a port depends on all Services.
var all = types.NamespacedName{Name: "all"}

// New returns the controller.
func New(cfg Config, client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) reconcile.Controller {
	services, nodes, endpoints := factory.Core().V1().Services(), factory.Core().V1().Nodes(), factory.Discovery().V1().EndpointSlices()
	c := &controller{
		cfg: cfg, client: client, events: events,
		services: services.Lister(), nodes: nodes.Lister(), slices: endpoints.Lister(),
	}
	return reconcile.Controller{
		Name:      "service_lb",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(services.Informer(), func(q reconcile.Queue, old, new *corev1.Service) {
				if loadbalancer.IsOurs(old) || loadbalancer.IsOurs(new) {
					q.Add(all)
				}
			}),
			reconcile.On(nodes.Informer(), func(q reconcile.Queue, old, new *corev1.Node) {
				if old == nil || new == nil || describe(old) != describe(new) {
					q.Add(all)
				}
			}),
			reconcile.OnAny(endpoints.Informer(), func(q reconcile.Queue, slice *discoveryv1.EndpointSlice) {
				svc, err := c.services.Services(slice.Namespace).Get(slice.Labels[discoveryv1.LabelServiceName])
				if err == nil && loadbalancer.IsOurs(svc) && loadbalancer.IsLocal(svc) {
					q.Add(all)
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{services.Informer(), nodes.Informer(), endpoints.Informer()},
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
	if len(services) == 0 {
		return reconcile.Result{}, errors.Join(errs...)
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	members := usable(nodes)
	denied, reserved := c.distribute(services)
	told := map[types.UID]string{}
	for _, svc := range services {
		var ingress []corev1.LoadBalancerIngress
		if why := denied[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; why == "" {
			eligible := members
			if loadbalancer.IsLocal(svc) {
				if eligible, err = loadbalancer.WithEndpoints(c.slices, svc, members); err != nil {
					return reconcile.Result{}, err
				}
			}
			ingress = addresses(svc, eligible)
		} else {
			if c.told[svc.UID] != why {
				c.events.Event(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", why)
			}
			told[svc.UID] = why
		}
		errs = append(errs, loadbalancer.Give(ctx, c.client, svc, ingress))
	}
	c.told = told
	result := reconcile.Result{}
	if reserved {
		result.RequeueAfter = lookAgain
	}
	return result, errors.Join(errs...)
}

// distribute gives ports to the Services that want them: first to those that have an address, then to older ones.
// It returns who gets none of its ports, and why; and whether a port is among the reasons that nodes need themselves.
func (c *controller) distribute(services []*corev1.Service) (denied map[types.NamespacedName]string, reserved bool) {
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(min(1, len(b.Status.LoadBalancer.Ingress))-min(1, len(a.Status.LoadBalancer.Ingress)), reconcile.OlderFirst(a, b))
	})
	type port struct {
		protocol corev1.Protocol
		number   int32
	}
	taken := map[port]string{}
	denied = map[types.NamespacedName]string{}
	for _, svc := range services {
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		for _, p := range svc.Spec.Ports {
			if other, is := taken[port{p.Protocol, p.Port}]; is {
				denied[name] = fmt.Sprintf("%s port %d of the nodes belongs to Service %s", p.Protocol, p.Port, other)
			} else if why := c.reserved(p.Port); why != "" {
				denied[name], reserved = fmt.Sprintf("port %d of the nodes is needed for %s", p.Port, why), true
			}
		}
		if denied[name] != "" {
			continue
		}
		for _, p := range svc.Spec.Ports {
			taken[port{p.Protocol, p.Port}] = name.String()
		}
	}
	return denied, reserved
}

func (c *controller) reserved(port int32) string {
	if c.cfg.Reserved == nil {
		return ""
	}
	return c.cfg.Reserved(port)
}

// toBeDeletedTaint is what the cluster autoscaler puts on a node before it takes it away.
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// usable returns the nodes to which outside traffic may be sent. If none is ready nothing is lost by naming them.
func usable(nodes []*corev1.Node) []*corev1.Node {
	return loadbalancer.ReadyOf(slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool {
		return loadbalancer.IsExcluded(n) || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeletedTaint })
	}))
}

// describe returns what matters of a node.
func describe(n *corev1.Node) string {
	return fmt.Sprint(len(usable([]*corev1.Node{n})), loadbalancer.IsReady(n), n.Status.Addresses)
}

// addresses returns the nodes' addresses in the families of a Service: external ones if any node has some.
func addresses(svc *corev1.Service, nodes []*corev1.Node) []corev1.LoadBalancerIngress {
	found := map[corev1.NodeAddressType]map[netip.Addr]bool{corev1.NodeExternalIP: {}, corev1.NodeInternalIP: {}}
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if of := found[a.Type]; err == nil && of != nil && hasFamily(svc, ip) {
				of[ip] = true
			}
		}
	}
	chosen := found[corev1.NodeExternalIP]
	if len(chosen) == 0 {
		chosen = found[corev1.NodeInternalIP]
	}
	var ingress []corev1.LoadBalancerIngress
	for _, ip := range slices.SortedFunc(maps.Keys(chosen), netip.Addr.Compare) {
		ingress = append(ingress, corev1.LoadBalancerIngress{IP: ip.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return ingress
}

func hasFamily(svc *corev1.Service, ip netip.Addr) bool {
	family := corev1.IPv4Protocol
	if ip.Is6() {
		family = corev1.IPv6Protocol
	}
	return slices.Contains(svc.Spec.IPFamilies, family)
}
