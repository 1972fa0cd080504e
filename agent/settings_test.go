// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// Node ports are at all addresses with iptables, and at the node's own of both families with nftables, as upstream's are.
func TestNodePortAddresses(t *testing.T) {
	for _, c := range []struct {
		mode  string
		asked []string
		want  string
	}{
		{"iptables", nil, "[]"},
		{"nftables", nil, "[192.0.2.1/32 2001:db8::1/128]"},
		{"iptables", []string{NodePortsPrimary}, "[192.0.2.1/32 2001:db8::1/128]"},
		{"nftables", []string{"198.51.100.0/24"}, "[198.51.100.0/24]"},
	} {
		s := Settings{ProxyMode: c.mode, NodePortAddresses: c.asked}
		if got := fmt.Sprint(s.nodePortAddresses([]string{"192.0.2.1", "2001:db8::1"})); got != c.want {
			t.Errorf("%s, %v: %s, want %s", c.mode, c.asked, got, c.want)
		}
	}
}

// A second address of a node has to be of the other family.
func TestCheckFamilies(t *testing.T) {
	for second, ok := range map[string]bool{"": true, "2001:db8::1": true, "192.0.2.2": false, "::1": false} {
		if err := CheckFamilies(net.IPv4(192, 0, 2, 1), net.ParseIP(second)); (err == nil) != ok {
			t.Errorf("%q: %v", second, err)
		}
	}
}

// A node says of itself only what it may, and what can be a label.
func TestCheckLabels(t *testing.T) {
	for label, want := range map[string]string{
		"disk=ssd": "", "example.org/rack=r1": "", "node.kubernetes.io/instance-type=big": "", "topology.kubernetes.io/zone=z1": "", "sub.node.kubernetes.io/x=": "",
		"node-role.kubernetes.io/worker=": "is not a node's to choose", "kubernetes.io/team=a": "is not a node's to choose", "x.k8s.io/a=b": "is not a node's to choose",
		"a b=c": "change --node-labels", "a=b c": "change --node-labels",
	} {
		name, value, _ := strings.Cut(label, "=")
		err := checkLabels(map[string]string{name: value})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", label, err, want)
		}
	}
}
