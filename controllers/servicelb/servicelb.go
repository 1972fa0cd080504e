// SPDX-License-Identifier: Apache-2.0

// Package servicelb gives Services of type LoadBalancer an address without a cloud: those of the nodes.
//
// It only writes status.loadBalancer; the Service proxy of each node takes what is sent to these addresses. With
// externalTrafficPolicy Cluster they are all ready nodes', with Local those that have an endpoint. Two Services cannot
// have the same port of a node: the older one gets it, and the other waits, with an event that says for whom. Ports
// that nodes need for themselves are given to nobody.
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
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
)

// Name is the controller's identity and its name in events.
const Name = "service-controller"

// Config says what nodes cannot give away.
type Config struct {
	// Reserved tells for what nodes need a TCP or UDP port; "" if they do not. Optional.
	Reserved func(port int32) string
}

type controller struct {
	cfg      Config
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	events   record.EventRecorder
}

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
				if isOurs(old) || isOurs(new) {
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
				if err == nil && isOurs(svc) && isLocal(svc) {
					q.Add(all)
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{services.Informer(), nodes.Informer(), endpoints.Informer()},
	}
}

func isOurs(svc *corev1.Service) bool {
	return svc != nil && svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil
}

func isLocal(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// Reconcile writes the addresses of all Services where they differ.
func (c *controller) Reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	services = slices.DeleteFunc(services, func(svc *corev1.Service) bool { return !isOurs(svc) || svc.DeletionTimestamp != nil })
	if len(services) == 0 {
		return reconcile.Result{}, nil
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	members := usable(nodes)
	denied := c.distribute(services)
	var errs []error
	for _, svc := range services {
		var ingress []corev1.LoadBalancerIngress
		if why := denied[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}]; why == "" {
			eligible := members
			if isLocal(svc) {
				if eligible, err = c.withEndpoints(svc, members); err != nil {
					return reconcile.Result{}, err
				}
			}
			ingress = addresses(svc, eligible)
		} else {
			c.events.Event(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed", why)
		}
		errs = append(errs, c.write(ctx, svc, ingress))
	}
	return reconcile.Result{}, errors.Join(errs...)
}

func (c *controller) write(ctx context.Context, svc *corev1.Service, ingress []corev1.LoadBalancerIngress) error {
	if equality.Semantic.DeepEqual(svc.Status.LoadBalancer.Ingress, ingress) {
		return nil
	}
	svc = svc.DeepCopy()
	svc.Status.LoadBalancer.Ingress = ingress
	_, err := c.client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, svc, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write addresses of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return nil
}

// distribute gives ports to the oldest Services that want them. It returns who gets none of its ports, and why.
func (c *controller) distribute(services []*corev1.Service) map[types.NamespacedName]string {
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	type port struct {
		protocol corev1.Protocol
		number   int32
	}
	taken, denied := map[port]string{}, map[types.NamespacedName]string{}
	for _, svc := range services {
		name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
		for _, p := range svc.Spec.Ports {
			if other, is := taken[port{p.Protocol, p.Port}]; is {
				denied[name] = fmt.Sprintf("%s port %d of the nodes belongs to Service %s", p.Protocol, p.Port, other)
			} else if why := c.reserved(p.Port); why != "" {
				denied[name] = fmt.Sprintf("port %d of the nodes is needed for %s", p.Port, why)
			}
		}
		if denied[name] != "" {
			continue
		}
		for _, p := range svc.Spec.Ports {
			taken[port{p.Protocol, p.Port}] = name.String()
		}
	}
	return denied
}

func (c *controller) reserved(port int32) string {
	if c.cfg.Reserved == nil {
		return ""
	}
	return c.cfg.Reserved(port)
}

// withEndpoints returns the nodes on which a Service has an endpoint that answers.
func (c *controller) withEndpoints(svc *corev1.Service, nodes []*corev1.Node) ([]*corev1.Node, error) {
	list, err := c.slices.EndpointSlices(svc.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: svc.Name}))
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, slice := range list {
		for _, endpoint := range slice.Endpoints {
			if endpoint.NodeName != nil && ptr.Deref(endpoint.Conditions.Serving, ptr.Deref(endpoint.Conditions.Ready, true)) {
				has[*endpoint.NodeName] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool { return !has[n.Name] }), nil
}

// toBeDeletedTaint is what the cluster autoscaler puts on a node before it takes it away.
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

// usable returns the nodes to which outside traffic may be sent. If none is ready it is as likely that we are told
// wrong, and nothing is lost by naming them.
func usable(nodes []*corev1.Node) []*corev1.Node {
	members := slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool {
		_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
		return excluded || n.DeletionTimestamp != nil ||
			slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == toBeDeletedTaint })
	})
	if slices.ContainsFunc(members, isReady) {
		members = slices.DeleteFunc(members, func(n *corev1.Node) bool { return !isReady(n) })
	}
	return members
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// describe returns what matters of a node.
func describe(n *corev1.Node) string {
	return fmt.Sprint(len(usable([]*corev1.Node{n})), isReady(n), n.Status.Addresses)
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
