// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/network"
)

// A node is a peer as soon as others can reach its pods.
func TestPeers(t *testing.T) {
	node := func(name string, cidrs []string, addresses ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.9"})
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	all := []*corev1.Node{
		node("c", []string{"10.42.2.0/24", "fd00::/64"}, "2001:db8::3", "192.0.2.3", "192.0.2.33"),
		node("own", []string{"10.42.0.0/24"}, "192.0.2.1"),
		node("b", []string{"10.42.1.0/24"}, "192.0.2.2"),
		node("no-address", []string{"10.42.3.0/24"}),
		node("no-pods", nil, "192.0.2.5"),
	}
	want := []network.Peer{
		{Address: netip.MustParseAddr("192.0.2.2"), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}},
		{Address: netip.MustParseAddr("192.0.2.3"), PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.2.0/24"), netip.MustParsePrefix("fd00::/64")}},
	}
	if got := peers(all, "own", true); !reflect.DeepEqual(got, want) {
		t.Errorf("peers = %v, want %v", got, want)
	}
	want = want[1:]
	want[0].Address = netip.MustParseAddr("2001:db8::3")
	if got := peers(all, "own", false); !reflect.DeepEqual(got, want) {
		t.Errorf("peers by IPv6 = %v, want %v", got, want)
	}
}
