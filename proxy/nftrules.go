// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// nftService is what a service has in the kernel.
type nftService struct {
	chains   map[string]string // rules by chain
	sets     map[string]nftSet
	elements map[nftKey]string  // by their key: verdicts, endpoints, or inSet
	spreads  map[nftSpread]bool // whose chains and maps it shares with others
}

// nftSet is a set or a map: one of clients with affinity if it is for some seconds, else one of endpoints.
type nftSet struct {
	seconds int
	key     string // of a map of endpoints
}

// nftKey is an element of a map or of a set.
type nftKey struct{ in, key string }

// inSet is the value of an element that has none.
const inSet = "."

func newNFTService() *nftService {
	return &nftService{chains: map[string]string{}, sets: map[string]nftSet{}, elements: map[nftKey]string{}, spreads: map[nftSpread]bool{}}
}

// chain adds a chain with its rules; empty ones are left out.
func (s *nftService) chain(name string, rules ...string) {
	rules = slices.DeleteFunc(rules, func(rule string) bool { return rule == "" })
	s.chains[name] = strings.Join(rules, "\n") + "\n"
}

// nftRules returns the rules of a service: of all its ports in one family. They say "ip saddr" in both families.
func nftRules(ports []servicePort, s settings) *nftService {
	w := &nftWriter{settings: s, nftService: newNFTService()}
	for i := range ports {
		w.port(&ports[i])
	}
	return w.nftService
}

type nftWriter struct {
	settings
	*nftService
}

// nftName names a port's chain: unique by its hash, and readable.
func nftName(kind string, p *servicePort, more string) string {
	readable := strings.NewReplacer(":", "/", "[", "", "]", "").Replace(p.name + "/" + p.protocol + more)
	return kind + "-" + shortHash(p.name + p.protocol + more)[:8] + "-" + readable[:min(len(readable), 200)]
}

func nftEndpoint(p *servicePort, ep netip.AddrPort) string {
	return nftName("endpoint", p, fmt.Sprintf("__%s/%d", strings.ReplaceAll(ep.Addr().String(), ":", "."), ep.Port()))
}

// nftTargets are where a port's traffic goes.
type nftTargets struct {
	portChains
	nodePort string
	plain    bool
}

// port writes the rules of one service port. Most are plain: their endpoints are in maps, and their chains are those of all ports
// with as many endpoints. What the kernel checks when a rule or a verdict changes are all ways through chains; of an element of such
// a map it checks nothing.
func (w *nftWriter) port(p *servicePort) {
	w.elements[nftKey{nftClusterIPs, p.clusterIP.String()}] = inSet
	for _, ep := range p.hairpin {
		w.elements[nftKey{nftHairpin, fmt.Sprintf("%s . %s . %s . %d", ep.Addr(), ep.Addr(), p.protocol, ep.Port())}] = inSet
	}
	c := nftTargets{portChains: routes(p, portChains{
		cluster: nftName("service", p, ""), local: nftName("local", p, ""),
		sources: nftName("firewall", p, ""), external: nftName("external", p, ""),
	})}
	c.nodePort = c.external
	if p.affinitySeconds == 0 && (!p.externalLocal || !p.externallyAccessible()) {
		c = w.share(p, c)
	}
	w.capture(p, c)
	if c.plain {
		return
	}
	if p.some && p.externallyAccessible() {
		w.external(p, c.portChains)
	}
	if len(p.cluster) > 0 && p.usesCluster() {
		w.balance(p, c.cluster, p.cluster)
	}
	if len(p.local) > 0 && p.usesLocal() {
		w.balance(p, c.local, p.local)
	}
	if p.affinitySeconds > 0 {
		for _, ep := range p.reachable {
			w.endpoint(p, ep)
		}
	}
}

// share returns the chains of a plain port.
func (w *nftWriter) share(p *servicePort, c nftTargets) nftTargets {
	c.plain = true
	use := func(by traffic, eps []netip.AddrPort) string {
		s := nftSpread{by, p.protocol, len(eps)}
		w.spreads[s] = true
		return s.name()
	}
	if c.hasInternal {
		c.internalTarget = use(toClusterIP, p.internal())
	}
	if p.some && len(p.externalIPs)+len(p.loadBalancerIPs) > 0 {
		c.external = use(toExternalIP, p.cluster)
	}
	if p.some && p.nodePort != 0 {
		c.nodePort = use(toNodePort, p.cluster)
	}
	return c
}

// capture writes the port's elements of the maps: what is caught, and what is refused.
func (w *nftWriter) capture(p *servicePort, c nftTargets) {
	refusal := "drop"
	if !p.some {
		refusal = "goto " + nftReject
	}
	catch := func(in, key, chain, endpoints string, eps []netip.AddrPort) {
		w.elements[nftKey{in, key}] = "goto " + chain
		if !c.plain {
			return
		}
		for i, ep := range eps {
			w.elements[nftKey{endpoints + strconv.Itoa(i), key}] = fmt.Sprintf("%s . %d", ep.Addr(), ep.Port())
		}
	}
	at := func(ip netip.Addr) string { return fmt.Sprintf("%s . %s . %d", ip, p.protocol, p.port) }
	if c.hasInternal {
		catch(nftServiceIPs, at(p.clusterIP), c.internalTarget, nftEndpoints, p.internal())
	} else {
		w.elements[nftKey{nftNoEndpoints, at(p.clusterIP)}] = refusal
	}
	for _, ip := range slices.Concat(p.externalIPs, p.loadBalancerIPs) {
		if p.some {
			catch(nftServiceIPs, at(ip), c.external, nftEndpoints, p.cluster)
		}
		if !c.hasExternal {
			w.elements[nftKey{nftNoEndpoints, at(ip)}] = refusal
		}
	}
	if p.nodePort != 0 {
		key := fmt.Sprintf("%s . %d", p.protocol, p.nodePort)
		if p.some {
			catch(nftNodePorts, key, c.nodePort, nftNodePortEndpoints, p.cluster)
		}
		if !c.hasExternal {
			w.elements[nftKey{nftNoEndpointsNP, key}] = refusal
		}
	}
	if p.some && len(p.loadBalancerIPs) > 0 && len(p.sourceRanges) > 0 {
		w.sources(p, c.sources)
		for _, ip := range p.loadBalancerIPs {
			w.elements[nftKey{nftFirewall, at(ip)}] = "goto " + c.sources
		}
	}
}

// sources writes the chain that drops what is not from a load balancer's source ranges, before it is translated.
func (w *nftWriter) sources(p *servicePort, chain string) {
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
	w.chain(chain, append(rules, "drop")...)
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
func (w *nftWriter) balance(p *servicePort, name string, eps []netip.AddrPort) {
	var rules []string
	targets := make([]string, 0, len(eps))
	for i, ep := range eps {
		if p.affinitySeconds == 0 {
			targets = append(targets, fmt.Sprintf("%d : %s . %d", i, ep.Addr(), ep.Port()))
			continue
		}
		rules = append(rules, fmt.Sprintf("ip saddr @%s goto %s", nftClients(p, ep), nftEndpoint(p, ep)))
		targets = append(targets, fmt.Sprintf("%d : goto %s", i, nftEndpoint(p, ep)))
	}
	all := fmt.Sprintf("numgen random mod %d", len(eps)) + " %smap { " + strings.Join(targets, " , ") + " }"
	if p.affinitySeconds > 0 {
		rules = append(rules, fmt.Sprintf(all, "v"))
	} else {
		rules = append(rules, "meta l4proto "+p.protocol+" dnat ip addr . port to "+fmt.Sprintf(all, ""))
	}
	w.chain(name, rules...)
}

// endpoint writes the chain of one endpoint of a port with affinity.
func (w *nftWriter) endpoint(p *servicePort, ep netip.AddrPort) {
	w.sets[nftClients(p, ep)] = nftSet{seconds: p.affinitySeconds}
	w.chain(nftEndpoint(p, ep),
		fmt.Sprintf("update @%s { ip saddr }", nftClients(p, ep)),
		fmt.Sprintf("meta l4proto %s dnat to %s", p.protocol, ep))
}

// nftClients names the set of an endpoint's clients. How long it remembers them cannot be changed, so it is part of the
// name.
func nftClients(p *servicePort, ep netip.AddrPort) string {
	return nftName("affinity", p, fmt.Sprintf("__%s/%d__%d", strings.ReplaceAll(ep.Addr().String(), ":", "."), ep.Port(), p.affinitySeconds))
}

func secondsOf(n int) time.Duration { return time.Duration(n) * time.Second }

// nftSpread says how plain ports lead traffic to their endpoints: evenly to the first n maps of endpoints.
type nftSpread struct {
	traffic
	protocol string
	n        int
}

// traffic tells what is done with a packet by where it was sent.
type traffic string

const (
	toClusterIP  traffic = "internal"
	toExternalIP traffic = "external"
	toNodePort   traffic = "nodeport"
)

func (s nftSpread) name() string { return fmt.Sprintf("%s-%s-%d", s.traffic, s.protocol, s.n) }

// nftShared returns the chains and the maps of plain ports. With three endpoints for TCP:
//
//	external-tcp-3:  jump mark-for-masquerade ; goto internal-tcp-3
//	internal-tcp-3:  numgen random mod 3 vmap { 0 : goto endpoints-0-tcp , ... }
//	endpoints-0-tcp: meta l4proto tcp dnat ip addr . port to ip daddr . meta l4proto . th dport map @endpoints-0
func nftShared(spreads map[nftSpread]int) *nftService {
	shared := newNFTService()
	for s := range maps.Keys(spreads) {
		switch s.traffic {
		case toNodePort:
			shared.spread(s, nftNodePortEndpoints, nftPort, "jump "+nftMark)
		case toExternalIP: // the endpoint may be on another node
			internal := nftSpread{toClusterIP, s.protocol, s.n}
			shared.chain(s.name(), "jump "+nftMark, "goto "+internal.name())
			s = internal
			fallthrough
		default:
			shared.spread(s, nftEndpoints, "ip daddr . "+nftPort, "")
		}
	}
	return shared
}

// spread writes the chains of one, with a rule that goes before.
func (s *nftService) spread(over nftSpread, endpoints, key, first string) {
	var targets []string
	for i := range over.n {
		in := endpoints + strconv.Itoa(i)
		s.sets[in] = nftSet{key: key}
		s.chain(in+"-"+over.protocol, fmt.Sprintf("meta l4proto %s dnat ip addr . port to %s map @%s", over.protocol, key, in))
		targets = append(targets, fmt.Sprintf("%d : goto %s-%s", i, in, over.protocol))
	}
	s.chain(over.name(), first, fmt.Sprintf("numgen random mod %d vmap { %s }", over.n, strings.Join(targets, " , ")))
}
