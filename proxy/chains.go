// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/network/iptables"
)

// Chain names are upstream's: people and tools look for them.
const (
	servicesChain         = "KUBE-SERVICES"
	externalServicesChain = "KUBE-EXTERNAL-SERVICES"
	nodePortsChain        = "KUBE-NODEPORTS"
	postroutingChain      = "KUBE-POSTROUTING"
	markMasqChain         = "KUBE-MARK-MASQ"
	forwardChain          = "KUBE-FORWARD"
	proxyFirewallChain    = "KUBE-PROXY-FIREWALL"
	canaryChain           = "KUBE-PROXY-CANARY"
	firewallChain         = "KUBE-FIREWALL" // upstream's kubelet keeps the same one

	clusterPrefix  = "KUBE-SVC-" // to the endpoints of policy Cluster
	localPrefix    = "KUBE-SVL-" // to the endpoints of policy Local
	sourcesPrefix  = "KUBE-FW-"  // checks a load balancer's source ranges
	externalPrefix = "KUBE-EXT-" // traffic from outside the cluster network
	endpointPrefix = "KUBE-SEP-" // one endpoint
)

var servicePrefixes = []string{clusterPrefix, localPrefix, sourcesPrefix, externalPrefix, endpointPrefix}

// isServiceChain tells whether a chain belongs to a service port.
func isServiceChain(chain string) bool {
	return slices.ContainsFunc(servicePrefixes, func(prefix string) bool { return strings.HasPrefix(chain, prefix) })
}

// masqueradeMark is bit 14, upstream's default.
const masqueradeMark = "0x4000"

// largeCluster is the number of endpoints from which on comments are left out, as upstream does: rules get 40 % smaller.
const largeCluster = 1000

// shared names the chains that all services write into.
type shared int

const (
	natServices shared = iota
	natNodePorts
	filterServices
	filterExternalServices
	filterNodePorts
	filterProxyFirewall
	numShared
)

var sharedChains = [numShared]struct {
	table iptables.Table
	chain string
}{
	natServices:            {iptables.NAT, servicesChain},
	natNodePorts:           {iptables.NAT, nodePortsChain},
	filterServices:         {iptables.Filter, servicesChain},
	filterExternalServices: {iptables.Filter, externalServicesChain},
	filterNodePorts:        {iptables.Filter, nodePortsChain},
	filterProxyFirewall:    {iptables.Filter, proxyFirewallChain},
}

// chain is one chain of the nat table that belongs to one service, or to none.
type chain struct {
	name    string
	rules   string // lines of "-A ..."
	service string
}

// ruleset is all the rules for one service: its lines in shared chains, and its own chains.
type ruleset struct {
	shared [numShared]string
	chains []chain
}

// count returns how many rules there are in each table.
func (r *ruleset) count() ruleCounts {
	var counts ruleCounts
	for which, rules := range r.shared {
		*counts.in(sharedChains[which].table) += strings.Count(rules, "\n")
	}
	for _, c := range r.chains {
		counts.nat += strings.Count(c.rules, "\n")
	}
	return counts
}

// settings are what rules depend on besides services.
type settings struct {
	family        corev1.IPFamily
	clusterCIDR   netip.Prefix // pods of the whole cluster; not valid if unknown
	nodeIPs       []netip.Addr
	masqueradeAll bool
	// nodePortIPs take node ports, unless all addresses of the node do.
	nodePortIPs    []netip.Addr
	allNodePortIPs bool
	// localhostNodePorts lets node ports be used at 127.0.0.1; it needs route_localnet.
	localhostNodePorts bool
	// dropInvalid protects connections from packets that conntrack cannot place.
	dropInvalid bool
	terse       bool // leave out comments in chains of services
	count       bool // the packets that metrics tell of
}

// Counters of packets, with upstream's names.
const (
	invalidCounter   = "ct_state_invalid_dropped_pkts" // that conntrack could not place
	localhostCounter = "localhost_nps_accepted_pkts"   // to node ports at 127.0.0.1
)

var packetCounters = []string{invalidCounter, localhostCounter}

// counted returns the match that adds a rule's packets to a counter.
func (s *settings) counted(name string) string {
	if !s.count {
		return ""
	}
	return " -m nfacct --nfacct-name " + name
}

// jump is a rule in a built-in chain that leads to one of ours; it goes first.
type jump struct {
	table    iptables.Table
	from, to string
	match    string // each argument after a blank
}

const newConnections = " -m conntrack --ctstate NEW"

var jumps = []jump{
	{iptables.Filter, "INPUT", externalServicesChain, newConnections + ` -m comment --comment "kubernetes externally-visible service portals"`},
	{iptables.Filter, "FORWARD", externalServicesChain, newConnections + ` -m comment --comment "kubernetes externally-visible service portals"`},
	{iptables.Filter, "INPUT", nodePortsChain, ` -m comment --comment "kubernetes health check service ports"`},
	{iptables.Filter, "FORWARD", servicesChain, newConnections + ` -m comment --comment "kubernetes service portals"`},
	{iptables.Filter, "OUTPUT", servicesChain, newConnections + ` -m comment --comment "kubernetes service portals"`},
	{iptables.Filter, "FORWARD", forwardChain, ` -m comment --comment "kubernetes forwarding rules"`},
	{iptables.Filter, "INPUT", proxyFirewallChain, newConnections + ` -m comment --comment "kubernetes load balancer firewall"`},
	{iptables.Filter, "OUTPUT", proxyFirewallChain, newConnections + ` -m comment --comment "kubernetes load balancer firewall"`},
	{iptables.Filter, "FORWARD", proxyFirewallChain, newConnections + ` -m comment --comment "kubernetes load balancer firewall"`},
	{iptables.Filter, "INPUT", firewallChain, ""},
	{iptables.Filter, "OUTPUT", firewallChain, ""},
	{iptables.NAT, "OUTPUT", servicesChain, ` -m comment --comment "kubernetes service portals"`},
	{iptables.NAT, "PREROUTING", servicesChain, ` -m comment --comment "kubernetes service portals"`},
	{iptables.NAT, "POSTROUTING", postroutingChain, ` -m comment --comment "kubernetes postrouting rules"`},
}

// fixedNAT returns the chains of the nat table that no service changes.
func fixedNAT() []chain {
	return []chain{
		{name: postroutingChain, rules: "" +
			"-A KUBE-POSTROUTING -m mark ! --mark " + masqueradeMark + "/" + masqueradeMark + " -j RETURN\n" +
			// cleared, so that a packet which passes the stack again is not masqueraded again
			"-A KUBE-POSTROUTING -j MARK --xor-mark " + masqueradeMark + "\n" +
			`-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully` + "\n"},
		{name: markMasqChain, rules: "-A KUBE-MARK-MASQ -j MARK --or-mark " + masqueradeMark + "\n"},
		{name: canaryChain},
	}
}

// fixedFilter returns the chains of the filter table that no service changes.
func fixedFilter(s settings) []chain {
	forward := ""
	if s.dropInvalid {
		forward += "-A KUBE-FORWARD -m conntrack --ctstate INVALID" + s.counted(invalidCounter) + " -j DROP\n"
	}
	forward += `-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark ` + masqueradeMark + "/" + masqueradeMark + " -j ACCEPT\n" +
		`-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT` + "\n"
	firewall := ""
	if s.localhostNodePorts {
		// route_localnet would let other machines reach what listens on 127.0.0.1 only.
		firewall = `-A KUBE-FIREWALL -m comment --comment "block incoming localnet connections" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP` + "\n"
	}
	return []chain{{name: forwardChain, rules: forward}, {name: firewallChain, rules: firewall}, {name: canaryChain}}
}

// lastRules returns what ends a shared chain.
func lastRules(which shared, s settings) string {
	if which != natServices {
		return ""
	}
	const rule = `-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" `
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if s.family == corev1.IPv6Protocol {
		loopback = netip.MustParsePrefix("::1/128") // there is no route_localnet for IPv6
	}
	if s.allNodePortIPs {
		except := ""
		if !s.localhostNodePorts {
			except = "! -d " + loopback.String() + " "
		}
		return rule + "-m addrtype --dst-type LOCAL " + except + "-j KUBE-NODEPORTS\n"
	}
	var b strings.Builder
	for _, ip := range s.nodePortIPs {
		if s.localhostNodePorts || !loopback.Contains(ip) {
			b.WriteString(rule + "-d " + ip.String() + " -j KUBE-NODEPORTS\n")
		}
	}
	return b.String()
}

// fixedRules counts the rules that there are without any service.
func fixedRules(s settings) ruleCounts {
	counts := ruleCounts{nat: strings.Count(lastRules(natServices, s), "\n")}
	for table, chains := range map[iptables.Table][]chain{iptables.NAT: fixedNAT(), iptables.Filter: fixedFilter(s)} {
		for _, c := range chains {
			*counts.in(table) += strings.Count(c.rules, "\n")
		}
	}
	for _, j := range jumps {
		*counts.in(j.table)++
	}
	return counts
}

// rulesFor returns the rules of a service: of all its ports in one family.
func rulesFor(ports []servicePort, s settings) ruleset {
	w := &writer{settings: s}
	for i := range ports {
		w.port(&ports[i])
	}
	var set ruleset
	for i := range w.shared {
		set.shared[i] = w.shared[i].String()
	}
	set.chains = w.chains
	for i := range set.chains {
		set.chains[i].service = ports[0].name
	}
	return set
}

// writer collects the rules of one service.
type writer struct {
	settings
	shared [numShared]strings.Builder
	chains []chain
}

// add puts a rule at the end of a shared chain.
func (w *writer) add(to shared, format string, args ...any) {
	b := &w.shared[to]
	b.WriteString("-A " + sharedChains[to].chain + " ")
	fmt.Fprintf(b, format, args...)
	b.WriteByte('\n')
}

// portChains are the names of a port's chains, and how its traffic gets to its endpoints.
type portChains struct {
	cluster, local, sources, external string
	internalTarget                    string // where traffic to the cluster IP goes
	externalTarget                    string // where outside traffic goes after KUBE-EXT
	hasInternal, hasExternal          bool   // whether there are endpoints at these targets
}

func chainsOf(p *servicePort) portChains {
	id := shortHash(p.name + p.protocol)
	return routes(p, portChains{cluster: clusterPrefix + id, local: localPrefix + id, sources: sourcesPrefix + id, external: externalPrefix + id})
}

// routes completes the names of a port's chains.
func routes(p *servicePort, c portChains) portChains {
	c.hasInternal, c.hasExternal = p.some, p.some
	c.internalTarget, c.externalTarget = c.cluster, c.cluster
	if p.internalLocal {
		c.internalTarget, c.hasInternal = c.local, len(p.local) > 0
	}
	if p.externalLocal {
		c.externalTarget, c.hasExternal = c.local, len(p.local) > 0
	}
	return c
}

// port writes the rules of one service port.
func (w *writer) port(p *servicePort) {
	c := chainsOf(p)
	checkSources := p.some && len(p.loadBalancerIPs) > 0 && len(p.sourceRanges) > 0
	w.capture(p, c, checkSources)
	if p.some && p.externallyAccessible() {
		w.external(p, c)
	}
	if checkSources {
		w.sources(p, c)
	}
	if len(p.cluster) > 0 && p.usesCluster() {
		w.balance(p, c.cluster, p.cluster, w.masqueradeInternal(p, c, c.cluster))
	}
	if len(p.local) > 0 && p.usesLocal() {
		w.balance(p, c.local, p.local, w.masqueradeInternal(p, c, c.local))
	}
	for _, ep := range p.reachable {
		w.endpoint(p, ep)
	}
}

// capture writes the port's lines in the shared chains: what is caught, and what is refused.
func (w *writer) capture(p *servicePort, c portChains, checkSources bool) {
	proto := fmt.Sprintf("-m %[1]s -p %[1]s", p.protocol)
	to := func(ip netip.Addr) string { return fmt.Sprintf("%s -d %s --dport %d", proto, ip, p.port) }
	// Without any endpoint traffic is rejected at once; with endpoints elsewhere only, policy Local drops it.
	refusal, why := "DROP", p.name+" has no local endpoints"
	if !p.some {
		refusal, why = "REJECT", p.name+" has no endpoints"
	}
	if c.hasInternal {
		w.add(natServices, `-m comment --comment "%s cluster IP" %s -j %s`, p.name, to(p.clusterIP), c.internalTarget)
	} else {
		w.add(filterServices, `-m comment --comment "%s" %s -j %s`, why, to(p.clusterIP), refusal)
	}
	outside := func(ip netip.Addr, what, target string) {
		if p.some {
			w.add(natServices, `-m comment --comment "%s %s" %s -j %s`, p.name, what, to(ip), target)
		}
		if !c.hasExternal {
			w.add(filterExternalServices, `-m comment --comment "%s" %s -j %s`, why, to(ip), refusal)
		}
	}
	for _, ip := range p.externalIPs {
		outside(ip, "external IP", c.external)
	}
	for _, ip := range p.loadBalancerIPs {
		target := c.external
		if checkSources {
			target = c.sources
			w.add(filterProxyFirewall, `-m comment --comment "%s traffic not accepted by %s" %s -j DROP`, p.name, c.sources, to(ip))
		}
		outside(ip, "loadbalancer IP", target)
	}
	if p.nodePort != 0 {
		if p.some && w.localhostNodePorts && w.count {
			w.add(natNodePorts, `-m comment --comment %s %s -d 127.0.0.0/8 --dport %d%s -j %s`, p.name, proto, p.nodePort, w.counted(localhostCounter), c.external)
		}
		if p.some {
			w.add(natNodePorts, `-m comment --comment %s %s --dport %d -j %s`, p.name, proto, p.nodePort, c.external)
		}
		if !c.hasExternal {
			w.add(filterExternalServices, `-m comment --comment "%s" -m addrtype --dst-type LOCAL %s --dport %d -j %s`, why, proto, p.nodePort, refusal)
		}
	}
	if p.healthCheckNodePort != 0 {
		w.add(filterNodePorts, `-m comment --comment "%s health check node port" -m tcp -p tcp --dport %d -j ACCEPT`, p.name, p.healthCheckNodePort)
	}
}

// masqueradeInternal returns the rules at the head of the chain that the cluster IP leads to: who comes from outside the
// pod network might be answered past this node, so such traffic is masqueraded.
func (w *writer) masqueradeInternal(p *servicePort, c portChains, chain string) string {
	if chain != c.internalTarget || !c.hasInternal || !w.masqueradeAll && !w.clusterCIDR.IsValid() {
		return ""
	}
	from := ""
	if !w.masqueradeAll {
		from = " ! -s " + w.clusterCIDR.String()
	}
	return fmt.Sprintf("-A %s -m comment --comment \"%s cluster IP\" -m %[3]s -p %[3]s -d %[4]s --dport %[5]d%[6]s -j %[7]s\n",
		chain, p.name, p.protocol, p.clusterIP, p.port, from, markMasqChain)
}

// external writes the chain for traffic to node ports, external and load balancer addresses.
func (w *writer) external(p *servicePort, c portChains) {
	var b strings.Builder
	rule := func(format string, args ...any) { fmt.Fprintf(&b, "-A "+c.external+" "+format+"\n", args...) }
	if !p.externalLocal {
		// the endpoint may be on another node
		rule(`-m comment --comment "masquerade traffic for %s external destinations" -j %s`, p.name, markMasqChain)
	} else {
		// Pods and this node itself are treated as if their traffic left the cluster and came back.
		if w.clusterCIDR.IsValid() {
			rule(`-m comment --comment "pod traffic for %s external destinations" -s %s -j %s`, p.name, w.clusterCIDR, c.cluster)
		}
		rule(`-m comment --comment "masquerade LOCAL traffic for %s external destinations" -m addrtype --src-type LOCAL -j %s`, p.name, markMasqChain)
		rule(`-m comment --comment "route LOCAL traffic for %s external destinations" -m addrtype --src-type LOCAL -j %s`, p.name, c.cluster)
	}
	if c.hasExternal {
		rule("-j %s", c.externalTarget)
	}
	w.chains = append(w.chains, chain{name: c.external, rules: b.String()})
}

// sources writes the chain that lets a load balancer's source ranges through. The rest is not translated, and
// KUBE-PROXY-FIREWALL drops it.
func (w *writer) sources(p *servicePort, c portChains) {
	var b strings.Builder
	rule := func(format string, args ...any) {
		fmt.Fprintf(&b, "-A %s -m comment --comment \"%s loadbalancer IP\" "+format+"\n", append([]any{c.sources, p.name}, args...)...)
	}
	fromNode := false
	for _, sources := range p.sourceRanges {
		rule("-s %s -j %s", sources, c.external)
		fromNode = fromNode || slices.ContainsFunc(w.nodeIPs, sources.Contains)
	}
	if fromNode { // where the address is local to the node, that is the source of the node's own traffic
		for _, ip := range p.loadBalancerIPs {
			rule("-s %s -j %s", ip, c.external)
		}
	}
	fmt.Fprintf(&b, "-A %s -m comment --comment \"other traffic to %s will be dropped by KUBE-PROXY-FIREWALL\"\n", c.sources, p.name)
	w.chains = append(w.chains, chain{name: c.sources, rules: b.String()})
}

// balance writes a chain that spreads traffic evenly over endpoints, after clients that have been here before.
func (w *writer) balance(p *servicePort, name string, eps []netip.AddrPort, head string) {
	var b strings.Builder
	b.WriteString(head)
	if p.affinitySeconds > 0 {
		for _, ep := range eps {
			epChain := endpointChain(p, ep)
			fmt.Fprintf(&b, "-A %s%s -m recent --name %s --rcheck --seconds %d --reap -j %s\n",
				name, w.comment(p.name+" -> "+ep.String()), epChain, p.affinitySeconds, epChain)
		}
	}
	for i, ep := range eps {
		b.WriteString("-A " + name + w.comment(p.name+" -> "+ep.String()))
		if left := len(eps) - i; left > 1 {
			b.WriteString(" -m statistic --mode random --probability " + strconv.FormatFloat(1/float64(left), 'f', 10, 64))
		}
		b.WriteString(" -j " + endpointChain(p, ep) + "\n")
	}
	w.chains = append(w.chains, chain{name: name, rules: b.String()})
}

// endpoint writes the chain of one endpoint.
func (w *writer) endpoint(p *servicePort, ep netip.AddrPort) {
	name := endpointChain(p, ep)
	start := "-A " + name + w.comment(p.name)
	affinity := ""
	if p.affinitySeconds > 0 {
		affinity = " -m recent --name " + name + " --set"
	}
	w.chains = append(w.chains, chain{name: name, rules: "" +
		// what comes back to where it came from would be answered past us
		start + " -s " + ep.Addr().String() + " -j " + markMasqChain + "\n" +
		start + affinity + " -m " + p.protocol + " -p " + p.protocol + " -j DNAT --to-destination " + ep.String() + "\n"})
}

func (w *writer) comment(text string) string {
	if w.terse {
		return ""
	}
	return ` -m comment --comment "` + text + `"`
}

func endpointChain(p *servicePort, ep netip.AddrPort) string {
	return endpointPrefix + shortHash(p.name+p.protocol+ep.String())
}

// shortHash makes a name that fits into a chain's 28 bytes; the same as upstream's for the same text.
func shortHash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
