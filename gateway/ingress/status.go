// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/network/loadbalancer"
)

// writeStatus writes at which addresses an Ingress is served, if that is not what its status says.
func (c *Controller) writeStatus(ctx context.Context, in *networkingv1.Ingress, points []networkingv1.IngressLoadBalancerIngress) error {
	if equality.Semantic.DeepEqual(in.Status.LoadBalancer.Ingress, points) {
		return nil
	}
	in = in.DeepCopy()
	in.Status.LoadBalancer.Ingress = points
	_, err := c.cfg.Client.NetworkingV1().Ingresses(in.Namespace).UpdateStatus(ctx, in, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write addresses of Ingress %s/%s: %w", in.Namespace, in.Name, err)
	}
	return nil
}

// points are the addresses for a status: our own if we serve, and those that another server has put there, as long as its node
// is ready. Nothing else stays.
func points(old []networkingv1.IngressLoadBalancerIngress, own []netip.Addr, others map[netip.Addr]bool, served bool) []networkingv1.IngressLoadBalancerIngress {
	want := map[netip.Addr]bool{}
	for _, p := range old {
		if ip, err := netip.ParseAddr(p.IP); err == nil && others[ip] {
			want[ip] = true
		}
	}
	for _, ip := range own {
		if served {
			want[ip] = true
		} else {
			delete(want, ip)
		}
	}
	var points []networkingv1.IngressLoadBalancerIngress
	for _, ip := range slices.SortedFunc(maps.Keys(want), netip.Addr.Compare) {
		points = append(points, networkingv1.IngressLoadBalancerIngress{IP: ip.String()})
	}
	return points
}

// isAt tells whether an Ingress says that it is served at one of the addresses.
func isAt(in *networkingv1.Ingress, addresses []netip.Addr) bool {
	return slices.ContainsFunc(in.Status.LoadBalancer.Ingress, func(p networkingv1.IngressLoadBalancerIngress) bool {
		ip, err := netip.ParseAddr(p.IP)
		return err == nil && slices.Contains(addresses, ip)
	})
}

// addresses returns where this node is reached, and where all others are that are ready.
func (c *Controller) addresses() (own []netip.Addr, others map[netip.Addr]bool, err error) {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	others = map[netip.Addr]bool{}
	for _, n := range nodes {
		if n.Name == c.cfg.NodeName {
			own = addressesOf(n)
		} else if loadbalancer.IsReady(n) {
			for _, ip := range addressesOf(n) {
				others[ip] = true
			}
		}
	}
	return own, others, nil
}

// addressesOf returns a node's external addresses, or its internal ones if it has no others.
func addressesOf(n *corev1.Node) []netip.Addr {
	byType := map[corev1.NodeAddressType][]netip.Addr{}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			byType[a.Type] = append(byType[a.Type], ip)
		}
	}
	if external := byType[corev1.NodeExternalIP]; len(external) > 0 {
		return external
	}
	return byType[corev1.NodeInternalIP]
}

// describe returns what matters of a node.
func describe(n *corev1.Node) string { return fmt.Sprint(loadbalancer.IsReady(n), n.Status.Addresses) }
