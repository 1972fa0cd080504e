// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// world is all that the rules of a node depend on.
type world struct {
	policies   []*networkingv1.NetworkPolicy
	namespaces map[string]labels.Set
	pods       []pod
	here       map[netip.Addr]Pod // attached to this node
}

// pod is a pod as policies see it.
type pod struct {
	Pod
	labels labels.Set
	addrs  []netip.Addr
	ports  []corev1.ContainerPort
}

// ruleset is what the kernel enforces, in one IP family.
type ruleset struct {
	pods map[netip.Addr]isolation
	sets map[string]set
}

// isolation is how a pod is cut off. A direction that is nil is open.
type isolation struct{ ingress, egress *allowed }

// allowed lists what a pod may nevertheless do in one direction. Pods may always reach themselves.
type allowed []match

// match matches connections by the other side and by the port of the server.
type match struct {
	peers       string // name of a set; everybody if empty
	protocol    corev1.Protocol
	first, last uint16 // with a protocol; all its ports if 0
}

// set holds addresses: those of pods, which come and go one by one, or the ranges of an ipBlock, which never change.
type set struct {
	pods   []netip.Addr // sorted
	ranges []addrRange  // sorted, apart from each other
}

// compile works out the rules of a node in one family.
func compile(w *world, family corev1.IPFamily) *ruleset {
	c := &compiler{
		world: w, family: family, out: &ruleset{pods: map[netip.Addr]isolation{}, sets: map[string]set{}},
		policies: map[string][]*networkingv1.NetworkPolicy{}, pods: map[string][]*pod{}, known: map[types.NamespacedName]*pod{},
	}
	for _, policy := range w.policies {
		c.policies[policy.Namespace] = append(c.policies[policy.Namespace], policy)
	}
	for i := range w.pods {
		p := &w.pods[i]
		c.pods[p.Namespace] = append(c.pods[p.Namespace], p)
		c.known[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = p
	}
	for addr, here := range w.here {
		if familyOf(addr) != family || len(c.policies[here.Namespace]) == 0 {
			continue
		}
		if isolation := c.isolate(here); isolation.ingress != nil || isolation.egress != nil {
			c.out.pods[addr] = isolation
		}
	}
	return c.out
}

type compiler struct {
	*world
	family   corev1.IPFamily
	out      *ruleset
	policies map[string][]*networkingv1.NetworkPolicy // by namespace
	pods     map[string][]*pod                        // by namespace
	known    map[types.NamespacedName]*pod
}

// isolate applies the policies of its namespace to a pod. One whose labels are not known yet is closed until they are.
func (c *compiler) isolate(here Pod) isolation {
	p := c.known[types.NamespacedName{Namespace: here.Namespace, Name: here.Name}]
	if p == nil || !p.is(here) {
		return isolation{&allowed{}, &allowed{}}
	}
	var result isolation
	for _, policy := range c.policies[here.Namespace] {
		if !selects(&policy.Spec.PodSelector, p.labels) {
			continue
		}
		ingress, egress := directions(&policy.Spec)
		if ingress {
			result.ingress = cmp.Or(result.ingress, &allowed{})
			for i := range policy.Spec.Ingress {
				result.ingress.add(c.ingress(policy.Namespace, &policy.Spec.Ingress[i], p)...)
			}
		}
		if egress {
			result.egress = cmp.Or(result.egress, &allowed{})
			for i := range policy.Spec.Egress {
				result.egress.add(c.egress(policy.Namespace, &policy.Spec.Egress[i])...)
			}
		}
	}
	return result
}

func (a *allowed) add(matches ...match) {
	for _, m := range matches {
		if !slices.Contains(*a, m) { // policies often say the same
			*a = append(*a, m)
		}
	}
}

// directions returns what a policy is about. The API server fills policyTypes in; its rule is repeated for objects of
// old.
func directions(spec *networkingv1.NetworkPolicySpec) (ingress, egress bool) {
	if len(spec.PolicyTypes) == 0 {
		return true, len(spec.Egress) > 0
	}
	return slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeIngress), slices.Contains(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

func (c *compiler) ingress(namespace string, rule *networkingv1.NetworkPolicyIngressRule, server *pod) []match {
	var matches []match
	for _, peers := range c.peers(namespace, rule.From) {
		for _, port := range portsOf(rule.Ports) {
			numbers := []match{port.match}
			if port.name != "" {
				numbers = server.named(port)
			}
			for _, m := range numbers {
				m.peers = c.use(peers)
				matches = append(matches, m)
			}
		}
	}
	return matches
}

// egress returns what a rule lets out. A named port is another number at each server, so the servers are split by it.
func (c *compiler) egress(namespace string, rule *networkingv1.NetworkPolicyEgressRule) []match {
	var matches []match
	for _, peers := range c.peers(namespace, rule.To) {
		for _, port := range portsOf(rule.Ports) {
			if port.name == "" {
				port.peers = c.use(peers)
				matches = append(matches, port.match)
				continue
			}
			for _, m := range c.split(peers, port) {
				if !slices.Contains(matches, m) {
					matches = append(matches, m)
				}
			}
		}
	}
	return matches
}

// split returns the pods among peers that have a port of a name, by the port's number.
func (c *compiler) split(peers peers, port port) []match {
	var matches []match
	byNumber := map[match][]*pod{}
	for _, p := range peers.pods {
		for _, m := range p.named(port) {
			if byNumber[m] == nil {
				matches = append(matches, m)
			}
			byNumber[m] = append(byNumber[m], p)
		}
	}
	slices.SortFunc(matches, func(a, b match) int { return cmp.Compare(a.first, b.first) })
	for i, m := range matches {
		some := peers
		some.everybody = false
		some.pods, some.name = byNumber[m], hashed("pods", peers.name, port.name, fmt.Sprint(m.protocol, m.first))
		matches[i].peers = c.use(some)
	}
	return matches
}

// peers are the other sides that an element of from or to allows.
type peers struct {
	everybody bool
	name      string // of the set
	pods      []*pod
	ranges    []addrRange // instead of pods
}

// peers returns what from or to selects; no element at all means everybody.
func (c *compiler) peers(namespace string, from []networkingv1.NetworkPolicyPeer) []peers {
	if len(from) == 0 {
		return []peers{{everybody: true, name: "everybody", pods: c.selectPods("", &metav1.LabelSelector{}, nil)}}
	}
	var list []peers
	for i := range from {
		if block := from[i].IPBlock; block != nil {
			if ranges := blockRanges(block, c.family); len(ranges) > 0 {
				list = append(list, peers{ranges: ranges, name: hashed("block", append([]string{block.CIDR}, block.Except...)...)})
			}
			continue
		}
		spaces, pods := from[i].NamespaceSelector, from[i].PodSelector
		own := ""
		if spaces == nil {
			own = namespace
		}
		list = append(list, peers{
			name: hashed("pods", own, metav1.FormatLabelSelector(spaces), metav1.FormatLabelSelector(pods)),
			pods: c.selectPods(own, spaces, pods),
		})
	}
	return list
}

// selectPods returns the pods of one namespace, or of those that a selector selects, that another selector selects; a
// selector that is nil selects all.
func (c *compiler) selectPods(namespace string, spaces, pods *metav1.LabelSelector) []*pod {
	var list []*pod
	all := func(namespace string) {
		for _, p := range c.pods[namespace] {
			if pods == nil || selects(pods, p.labels) {
				list = append(list, p)
			}
		}
	}
	if namespace != "" {
		all(namespace)
		return list
	}
	for name := range c.pods {
		if selects(spaces, c.namespaces[name]) {
			all(name)
		}
	}
	return list
}

// use makes sure that there is a set for peers, and returns its name.
func (c *compiler) use(p peers) string {
	if p.everybody {
		return ""
	}
	if _, there := c.out.sets[p.name]; there {
		return p.name
	}
	var addrs []netip.Addr
	for _, pod := range p.pods {
		for _, addr := range pod.addrs {
			if familyOf(addr) == c.family {
				addrs = append(addrs, addr)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	c.out.sets[p.name] = set{pods: slices.Compact(addrs), ranges: p.ranges}
	return p.name
}

// port is an element of a rule's ports.
type port struct {
	match
	name string // of container ports; if empty, the match says it all
}

// portsOf returns what ports select; no element at all means all ports of all protocols.
func portsOf(ports []networkingv1.NetworkPolicyPort) []port {
	if len(ports) == 0 {
		return []port{{}}
	}
	list := make([]port, 0, len(ports))
	for _, p := range ports {
		m := match{protocol: corev1.ProtocolTCP}
		if p.Protocol != nil {
			m.protocol = *p.Protocol
		}
		switch {
		case p.Port == nil:
			list = append(list, port{match: m})
		case p.Port.StrVal != "":
			list = append(list, port{match: m, name: p.Port.StrVal})
		default:
			m.first = uint16(p.Port.IntVal)
			m.last = m.first
			if p.EndPort != nil {
				m.last = uint16(*p.EndPort)
			}
			list = append(list, port{match: m})
		}
	}
	return list
}

// named returns matches of the pod's container ports with the name and protocol of a port.
func (p *pod) named(want port) []match {
	var list []match
	for _, have := range p.ports {
		if have.Name == want.name && cmp.Or(have.Protocol, corev1.ProtocolTCP) == want.protocol {
			list = append(list, match{protocol: want.protocol, first: uint16(have.ContainerPort), last: uint16(have.ContainerPort)})
		}
	}
	return list
}

// selects tells whether a selector selects labels; the API server has validated it.
func selects(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}

// hashed names what texts describe. The same description has the same name in all policies.
func hashed(kind string, texts ...string) string {
	sum := sha256.New()
	for _, text := range texts {
		fmt.Fprintf(sum, "%d %s", len(text), text)
	}
	return kind + "-" + hex.EncodeToString(sum.Sum(nil)[:8])
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
