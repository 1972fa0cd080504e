// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

// The pods of all stories; those with an address in 10.42.1.0/24 are on this node.
var (
	testPods = []pod{
		{Pod: Pod{Namespace: "x", Name: "a"}, labels: labels.Set{"pod": "a", "tier": "web"}, addrs: both("1", 1), ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}}},
		{Pod: Pod{Namespace: "x", Name: "b"}, labels: labels.Set{"pod": "b", "tier": "web"}, addrs: both("1", 2), ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 81}}},
		{Pod: Pod{Namespace: "x", Name: "far"}, labels: labels.Set{"pod": "far"}, addrs: both("2", 1), ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 82}}},
		{Pod: Pod{Namespace: "z", Name: "a"}, labels: labels.Set{"pod": "a"}, addrs: both("1", 3)},
		{Pod: Pod{Namespace: "z", Name: "b"}, labels: labels.Set{"pod": "b"}, addrs: both("2", 3)},
		{Pod: Pod{Namespace: "kube-system", Name: "kube-dns"}, labels: labels.Set{"k8s-app": "kube-dns"}, addrs: both("1", 254), ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}}},
	}
	testNamespaces = map[string]labels.Set{
		"x": {"ns": "x"}, "z": {"ns": "z"}, "kube-system": {corev1.LabelMetadataName: "kube-system"},
	}
)

func both(node string, host int) []netip.Addr {
	n := strconv.Itoa(host)
	return []netip.Addr{netip.MustParseAddr("10.42." + node + "." + n), netip.MustParseAddr("fd42:0:0:" + node + "::" + n)}
}

// addrOf returns the address of "namespace/name" or of a text that is one.
func addrOf(text string, family corev1.IPFamily) netip.Addr {
	for _, p := range testPods {
		if p.Namespace+"/"+p.Name == text {
			return p.addrs[map[corev1.IPFamily]int{corev1.IPv4Protocol: 0, corev1.IPv6Protocol: 1}[family]]
		}
	}
	return netip.MustParseAddr(text)
}

// permits is what the kernel does with a connection.
func (r *ruleset) permits(client, server netip.Addr, protocol corev1.Protocol, port uint16) bool {
	permits := func(list *allowed, self, peer netip.Addr) bool {
		return list == nil || self == peer || slices.ContainsFunc(*list, func(m match) bool {
			if m.peers != "" {
				s := r.sets[m.peers]
				inRange := func(r addrRange) bool { return r.first.Compare(peer) <= 0 && peer.Compare(r.last) <= 0 }
				if !slices.Contains(s.pods, peer) && !slices.ContainsFunc(s.ranges, inRange) {
					return false
				}
			}
			return (m.protocol == "" || m.protocol == protocol) && (m.first == 0 || m.first <= port && port <= m.last)
		})
	}
	return permits(r.pods[client].egress, client, server) && permits(r.pods[server].ingress, server, client)
}

// Each story is some policies, and connections "client server protocol port" of which those that end with "no" are cut
// off. Those without an address in them are tried in both families.
var stories = map[string]struct {
	policies    string
	connections []string
}{
	"no policy": {"", []string{
		"x/a x/b TCP 80 yes", "192.0.2.1 x/a TCP 80 yes", "x/a 192.0.2.1 TCP 80 yes",
	}},
	"deny ingress": {`
metadata: {namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress]}`, []string{
		"x/a x/b TCP 80 no", "z/a x/b TCP 80 no", "192.0.2.1 x/a UDP 53 no",
		"x/a x/a TCP 80 yes", // a pod can always reach itself
		"x/a z/a TCP 80 yes", // other namespaces are not concerned
		"x/a x/far TCP 80 yes",
		// far away is enforced there
	}},
	"deny egress": {`
metadata: {namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress]}`, []string{
		"x/a x/b TCP 80 no", "x/a 192.0.2.1 TCP 80 no", "x/a kube-system/kube-dns UDP 53 no",
		"x/b x/a TCP 80 yes", "x/a x/a TCP 80 yes",
	}},
	"types are ingress, and egress if there is a rule": {`
metadata: {namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}}
---
metadata: {namespace: x, name: second}
spec: {podSelector: {matchLabels: {pod: b}}, egress: [{ports: [{port: 1}]}]}`, []string{
		"x/a z/a TCP 80 yes", "z/a x/a TCP 80 no", "x/b z/a TCP 80 no", "x/b z/a TCP 1 yes", "z/a x/b TCP 80 no",
	}},
	"pods of the own namespace": {`
metadata: {namespace: x}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}`, []string{
		"x/b x/a TCP 80 yes", "x/far x/a TCP 80 no", "z/b x/a TCP 80 no",
	}},
	"namespaces, and pods of namespaces": {`
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}]}]
---
metadata: {namespace: x, name: second}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: pod, operator: In, values: [a, far]}]}}]}]`, []string{
		"z/a x/a TCP 80 yes", "z/b x/a TCP 80 yes", "x/b x/a TCP 80 no",
		"x/a x/b TCP 80 yes", "z/a x/b TCP 80 yes", "x/far x/b TCP 80 yes", "z/b x/b TCP 80 no",
	}},
	"policies add up": {`
metadata: {namespace: x}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}
---
metadata: {namespace: x, name: second}
spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 80}]}]}`, []string{
		"x/b x/a TCP 1 yes", "z/b x/a TCP 80 yes", "z/b x/a TCP 81 no", "z/b x/b TCP 80 no",
	}},
	"ports": {`
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{ports: [{port: 80}, {port: 1000, endPort: 2000}, {protocol: UDP}, {protocol: SCTP, port: 7}]}]`, []string{
		"z/a x/a TCP 80 yes", "z/a x/a TCP 81 no", "z/a x/a UDP 80 yes",
		"z/a x/a TCP 999 no", "z/a x/a TCP 1000 yes", "z/a x/a TCP 2000 yes", "z/a x/a TCP 2001 no",
		"z/a x/a SCTP 7 yes", "z/a x/a TCP 7 no", "z/a x/a SCTP 80 no",
	}},
	"named ports of the server": {`
metadata: {namespace: x}
spec: {podSelector: {}, ingress: [{ports: [{port: http}, {port: dns, protocol: UDP}]}]}`, []string{
		"z/a x/a TCP 80 yes", "z/a x/a TCP 81 no", "z/a x/b TCP 81 yes", "z/a x/b TCP 80 no",
		"z/a x/a UDP 53 yes", "z/a x/a TCP 53 no", "z/a x/b UDP 53 no",
	}},
	"a named port that nobody has": {`
metadata: {namespace: x}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: nobody}]}], egress: [{ports: [{port: nobody}]}]}`, []string{
		"z/a x/a TCP 80 no", "x/a z/a TCP 80 no",
	}},
	"named ports on the way out": {`
metadata: {namespace: z}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]}
---
metadata: {namespace: x, name: second}
spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: http}]}]}`, []string{
		"z/a x/a TCP 80 yes", "z/a x/b TCP 81 yes", "z/a x/far TCP 82 yes", "z/a x/a TCP 81 no", "z/a 192.0.2.1 TCP 80 no",
		"x/a x/b TCP 81 yes", "x/a x/far TCP 82 no",
	}},
	"blocks": {`
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress: [{to: [{ipBlock: {cidr: 192.0.0.0/8, except: [192.0.2.0/25, 192.0.2.200/32]}}, {ipBlock: {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}}]}]
---
metadata: {namespace: x, name: second}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.42.1.0/24]}}, {ipBlock: {cidr: 10.42.1.99/32}}]}]`, []string{
		"x/a 192.0.1.255 TCP 80 yes", "x/a 192.0.2.0 TCP 80 no", "x/a 192.0.2.127 TCP 80 no", "x/a 192.0.2.128 TCP 80 yes",
		"x/a 192.0.2.199 TCP 80 yes", "x/a 192.0.2.200 TCP 80 no", "x/a 192.0.2.201 TCP 80 yes", "x/a 192.255.255.255 TCP 80 yes", "x/a 193.0.0.0 TCP 80 no",
		"x/a 2001:db8::1 TCP 80 yes", "x/a 2001:db8:1::1 TCP 80 no", "x/a 2001:db8:2::1 TCP 80 yes",
		"255.255.255.255 x/b TCP 80 yes", "0.0.0.0 x/b TCP 80 yes", "10.42.1.3 x/b TCP 80 no",
		"10.42.1.99 x/b TCP 80 yes", // an exception of one is allowed by the other
	}},
	"the cluster's DNS is a pod": {`
metadata: {namespace: x}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}]}]`, []string{
		"x/a kube-system/kube-dns UDP 53 yes", "x/a kube-system/kube-dns TCP 10250 no",
	}},
}

func TestStories(t *testing.T) {
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			w := testWorld(t, story.policies)
			for _, connection := range story.connections {
				f := strings.Fields(connection)
				families := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
				if text := f[0] + f[1]; strings.Contains(text, ".") {
					families = families[:1]
				} else if strings.Contains(text, ":") {
					families = families[1:]
				}
				for _, family := range families {
					rules := compile(w, family)
					client, server := addrOf(f[0], family), addrOf(f[1], family)
					port, err := strconv.ParseUint(f[3], 10, 16)
					if err != nil {
						t.Fatal(err)
					}
					if got, want := rules.permits(client, server, corev1.Protocol(f[2]), uint16(port)), f[4] == "yes"; got != want {
						t.Errorf("%s in %s: %t", connection, family, got)
					}
				}
			}
		})
	}
}

func testWorld(t *testing.T, policies string) *world {
	t.Helper()
	w := &world{namespaces: testNamespaces, pods: testPods, here: map[netip.Addr]Pod{}}
	for text := range strings.SplitSeq(policies, "---") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		p := &networkingv1.NetworkPolicy{}
		if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		w.policies = append(w.policies, p)
	}
	for _, p := range testPods {
		if strings.HasPrefix(p.addrs[0].String(), "10.42.1.") && p.Namespace != "kube-system" {
			for _, addr := range p.addrs {
				w.here[addr] = p.Pod
			}
		}
	}
	return w
}

// Only pods that are attached here and that a policy selects have rules; sets that are the same are there once.
func TestRulesAreThoseOfThisNode(t *testing.T) {
	w := testWorld(t, `
metadata: {namespace: x}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
---
metadata: {namespace: x, name: second}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 1}]}]}`)
	rules := compile(w, corev1.IPv4Protocol)
	if len(rules.pods) != 2 || len(rules.sets) != 1 {
		t.Errorf("%d pods and %d sets, want the 2 of namespace x that are here, and 1 set for both policies", len(rules.pods), len(rules.sets))
	}
}

// A pod that the API has not told yet, or another one by the same name, is closed if its namespace has policies.
func TestUnknownPodIsClosed(t *testing.T) {
	w := testWorld(t, `
metadata: {namespace: x}
spec: {podSelector: {matchLabels: {pod: nobody}}}`)
	w.pods = slices.Clone(w.pods)
	w.pods[1].UID = "old"
	stranger, successor, elsewhere := netip.MustParseAddr("10.42.1.100"), netip.MustParseAddr("10.42.1.101"), netip.MustParseAddr("10.42.1.102")
	w.here[stranger] = Pod{Namespace: "x", Name: "stranger"}
	w.here[successor] = Pod{Namespace: "x", Name: "b", UID: "new"}
	w.here[elsewhere] = Pod{Namespace: "z", Name: "stranger"}
	rules := compile(w, corev1.IPv4Protocol)
	a := addrOf("z/a", corev1.IPv4Protocol)
	for _, addr := range []netip.Addr{stranger, successor} {
		if rules.permits(a, addr, "TCP", 80) || rules.permits(addr, a, "TCP", 80) {
			t.Errorf("%s, a pod that is not known, is open", addr)
		}
	}
	if !rules.permits(a, elsewhere, "TCP", 80) || !rules.permits(a, addrOf("x/a", corev1.IPv4Protocol), "TCP", 80) {
		t.Errorf("pods are closed without a reason: %+v", rules.pods)
	}
	w.pods[1].UID = "new"
	if rules := compile(w, corev1.IPv4Protocol); !rules.permits(a, successor, "TCP", 80) {
		t.Error("a pod is closed although it is known")
	}
}
