// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// nftRules returns the rules of a service: of all its ports in one family. They say "ip saddr" in both families.
func nftRules(ports []servicePort, s settings) *nftService {
	w := &nftWriter{settings: s, nftService: &nftService{chains: map[string]string{}, sets: map[string]int{}, elements: map[nftKey]string{}}}
	for i := range ports {
		w.port(&ports[i])
	}
	return w.nftService
}

type nftWriter struct {
	settings
	*nftService
}

// chain adds a chain with its rules; empty ones are left out.
func (w *nftWriter) chain(name string, rules ...string) {
	rules = slices.DeleteFunc(rules, func(rule string) bool { return rule == "" })
	w.chains[name] = strings.Join(rules, "\n") + "\n"
}

// nftName names a port's chain: unique by its hash, and readable.
func nftName(kind string, p *servicePort, more string) string {
	readable := strings.NewReplacer(":", "/", "[", "", "]", "").Replace(p.name + "/" + p.protocol + more)
	return kind + "-" + shortHash(p.name + p.protocol + more)[:8] + "-" + readable[:min(len(readable), 200)]
}

func nftEndpoint(p *servicePort, ep netip.AddrPort) string {
	return nftName("endpoint", p, fmt.Sprintf("__%s/%d", strings.ReplaceAll(ep.Addr().String(), ":", "."), ep.Port()))
}

// port writes the rules of one service port.
func (w *nftWriter) port(p *servicePort) {
	c := routes(p, portChains{
		cluster: nftName("service", p, ""), local: nftName("local", p, ""),
		sources: nftName("firewall", p, ""), external: nftName("external", p, ""),
	})
	w.capture(p, c)
	if p.some && p.externallyAccessible() {
		w.external(p, c)
	}
	if len(p.cluster) > 0 && p.usesCluster() {
		w.balance(p, c, c.cluster, p.cluster)
	}
	if len(p.local) > 0 && p.usesLocal() {
		w.balance(p, c, c.local, p.local)
	}
	for _, ep := range p.reachable {
		w.endpoint(p, ep)
	}
}

// capture writes the port's elements of the maps: what is caught, and what is refused.
func (w *nftWriter) capture(p *servicePort, c portChains) {
	at := func(in string, ip netip.Addr) nftKey {
		return nftKey{in, fmt.Sprintf("%s . %s . %d", ip, p.protocol, p.port)}
	}
	refusal := "drop"
	if !p.some {
		refusal = "goto " + nftReject
	}
	if c.hasInternal {
		w.elements[at(nftServiceIPs, p.clusterIP)] = "goto " + c.internalTarget
	} else {
		w.elements[at(nftNoEndpoints, p.clusterIP)] = refusal
	}
	for _, ip := range slices.Concat(p.externalIPs, p.loadBalancerIPs) {
		if p.some {
			w.elements[at(nftServiceIPs, ip)] = "goto " + c.external
		}
		if !c.hasExternal {
			w.elements[at(nftNoEndpoints, ip)] = refusal
		}
	}
	if p.nodePort != 0 {
		key := fmt.Sprintf("%s . %d", p.protocol, p.nodePort)
		if p.some {
			w.elements[nftKey{nftNodePorts, key}] = "goto " + c.external
		}
		if !c.hasExternal {
			w.elements[nftKey{nftNoEndpointsNP, key}] = refusal
		}
	}
	if p.some && len(p.loadBalancerIPs) > 0 && len(p.sourceRanges) > 0 {
		w.sources(p, c)
		for _, ip := range p.loadBalancerIPs {
			w.elements[at(nftFirewall, ip)] = "goto " + c.sources
		}
	}
}

// sources writes the chain that drops what is not from a load balancer's source ranges, before it is translated.
func (w *nftWriter) sources(p *servicePort, c portChains) {
	var rules []string
	fromNode := false
	for _, sources := range p.sourceRanges {
		rules = append(rules, fmt.Sprintf("ip saddr %s return", sources))
		fromNode = fromNode || slices.ContainsFunc(w.nodeIPs, sources.Contains)
	}
	if fromNode { // where the address is local to the node, that is the source of the node's own traffic
		for _, ip := range p.loadBalancerIPs {
			rules = append(rules, fmt.Sprintf("ip saddr %s return", ip))
		}
	}
	w.chain(c.sources, append(rules, "drop")...)
}

// external writes the chain for traffic to node ports, external and load balancer addresses.
func (w *nftWriter) external(p *servicePort, c portChains) {
	var rules []string
	if !p.externalLocal {
		rules = append(rules, "jump "+nftMark) // the endpoint may be on another node
	} else {
		// Pods and this node itself are treated as if their traffic left the cluster and came back.
		if w.clusterCIDR.IsValid() {
			rules = append(rules, fmt.Sprintf("ip saddr %s goto %s", w.clusterCIDR, c.cluster))
		}
		rules = append(rules, "fib saddr type local jump "+nftMark, "fib saddr type local goto "+c.cluster)
	}
	if c.hasExternal {
		rules = append(rules, "goto "+c.externalTarget)
	}
	w.chain(c.external, rules...)
}

// balance writes a chain that spreads traffic evenly over endpoints, after clients that have been here before.
func (w *nftWriter) balance(p *servicePort, c portChains, name string, eps []netip.AddrPort) {
	rules := []string{w.masqueradeInternal(p, c, name)}
	targets := make([]string, 0, len(eps))
	for i, ep := range eps {
		if p.affinitySeconds > 0 {
			rules = append(rules, fmt.Sprintf("ip saddr @%s goto %s", nftClients(p, ep), nftEndpoint(p, ep)))
		}
		targets = append(targets, fmt.Sprintf("%d : goto %s", i, nftEndpoint(p, ep)))
	}
	w.chain(name, append(rules, fmt.Sprintf("numgen random mod %d vmap { %s }", len(eps), strings.Join(targets, " , ")))...)
}

// masqueradeInternal returns the rule at the head of the chain that the cluster IP leads to, or "": who comes from outside
// the pod network might be answered past this node.
func (w *nftWriter) masqueradeInternal(p *servicePort, c portChains, chain string) string {
	if chain != c.internalTarget || !c.hasInternal || !w.masqueradeAll && !w.clusterCIDR.IsValid() {
		return ""
	}
	from := ""
	if !w.masqueradeAll {
		from = fmt.Sprintf("ip saddr != %s ", w.clusterCIDR)
	}
	return fmt.Sprintf("ip daddr %s meta l4proto %s th dport %d %sjump %s", p.clusterIP, p.protocol, p.port, from, nftMark)
}

// endpoint writes the chain of one endpoint.
func (w *nftWriter) endpoint(p *servicePort, ep netip.AddrPort) {
	remember := ""
	if p.affinitySeconds > 0 {
		w.sets[nftClients(p, ep)] = p.affinitySeconds
		remember = fmt.Sprintf("update @%s { ip saddr }", nftClients(p, ep))
	}
	w.chain(nftEndpoint(p, ep),
		// what comes back to where it came from would be answered past us
		fmt.Sprintf("ip saddr %s jump %s", ep.Addr(), nftMark),
		remember,
		fmt.Sprintf("meta l4proto %s dnat to %s", p.protocol, ep))
}

// nftClients names the set of an endpoint's clients. How long it remembers them cannot be changed, so it is part of the
// name.
func nftClients(p *servicePort, ep netip.AddrPort) string {
	return nftName("affinity", p, fmt.Sprintf("__%s/%d__%d", strings.ReplaceAll(ep.Addr().String(), ":", "."), ep.Port(), p.affinitySeconds))
}

func secondsOf(n int) time.Duration { return time.Duration(n) * time.Second }
