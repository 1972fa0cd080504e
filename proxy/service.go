// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// labelServiceProxyName hands a Service over to another proxy.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// node is what the rules depend on of the node they are for.
type node struct {
	name string
	zone string
	ips  []netip.Addr
	// nodePortIPs are its addresses that were chosen for node ports, sorted; none if all are.
	nodePortIPs []netip.Addr
}

func (n node) equal(o node) bool {
	return n.name == o.name && n.zone == o.zone && slices.Equal(n.ips, o.ips) &&
		slices.Equal(n.nodePortIPs, o.nodePortIPs)
}

// servicePort is one port of a Service in one IP family, with the endpoints that this node sends its traffic to.
type servicePort struct {
	name                string // namespace/name:port, as comments, and hashes in chain names, have it
	clusterIP           netip.Addr
	port                uint16
	protocol            string // in lower case
	nodePort            uint16
	healthCheckNodePort uint16
	externalIPs         []netip.Addr
	loadBalancerIPs     []netip.Addr
	sourceRanges        []netip.Prefix // empty: all
	affinitySeconds     int            // 0: no affinity
	internalLocal       bool
	externalLocal       bool

	endpoints
}

// endpoints are those that a service port uses, by traffic policy.
type endpoints struct {
	cluster []netip.AddrPort // for policy Cluster; nil if the port never uses it
	local   []netip.AddrPort // for policy Local; nil if the port never uses it
	// reachable is the union of both, sorted.
	reachable []netip.AddrPort
	// hairpin are those of reachable that may be pods of this node: what they send to the port may come back to them.
	hairpin []netip.AddrPort
	// serving holds all that may still answer, on any node: flows to them go on.
	serving []netip.AddrPort
	// some tells whether any endpoint is usable, on whichever node.
	some bool
	// readyHere are the pods on this node that are ready, for health checks.
	readyHere []netip.Addr
}

// externallyAccessible tells whether the port can be reached by more than its cluster IP.
func (p *servicePort) externallyAccessible() bool {
	return p.nodePort != 0 || len(p.externalIPs) > 0 || len(p.loadBalancerIPs) > 0
}

// usesCluster: external traffic from this node or its pods ignores the policy Local, so it needs these too.
func (p *servicePort) usesCluster() bool { return !p.internalLocal || p.externallyAccessible() }

func (p *servicePort) usesLocal() bool {
	return p.internalLocal || p.externalLocal && p.externallyAccessible()
}

// internal returns the endpoints of the cluster IP.
func (p *servicePort) internal() []netip.AddrPort {
	if p.internalLocal {
		return p.local
	}
	return p.cluster
}

// servicePorts works out what to do for a Service. It is nil for one that needs no proxy in this family.
func servicePorts(svc *corev1.Service, epSlices []*discoveryv1.EndpointSlice, here node, family corev1.IPFamily) []servicePort {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if _, other := svc.Labels[labelServiceProxyName]; other {
		return nil
	}
	clusterIP := clusterIPOf(svc, family)
	if !clusterIP.IsValid() {
		return nil // headless, or not of this family
	}
	common := servicePort{
		clusterIP:       clusterIP,
		externalIPs:     addressesOf(family, svc.Spec.ExternalIPs),
		loadBalancerIPs: addressesOf(family, virtualIPs(svc.Status.LoadBalancer.Ingress)),
		sourceRanges:    sourceRangesOf(family, svc.Spec.LoadBalancerSourceRanges),
		affinitySeconds: affinityOf(svc),
		internalLocal:   svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		externalLocal:   externalPolicyLocal(svc),
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && common.externalLocal {
		common.healthCheckNodePort = uint16(svc.Spec.HealthCheckNodePort)
	}
	ports := make([]servicePort, 0, len(svc.Spec.Ports))
	for i := range svc.Spec.Ports {
		spec := &svc.Spec.Ports[i]
		port := common
		port.name = svc.Namespace + "/" + svc.Name
		if spec.Name != "" {
			port.name += ":" + spec.Name
		}
		protocol := cmp.Or(spec.Protocol, corev1.ProtocolTCP)
		port.port, port.nodePort, port.protocol = uint16(spec.Port), uint16(spec.NodePort), strings.ToLower(string(protocol))
		port.endpoints = choose(collect(epSlices, spec.Name, protocol, here.name, family), &port, here)
		ports = append(ports, port)
	}
	return ports
}

func externalPolicyLocal(svc *corev1.Service) bool {
	external := svc.Spec.Type == corev1.ServiceTypeLoadBalancer || svc.Spec.Type == corev1.ServiceTypeNodePort ||
		svc.Spec.Type == corev1.ServiceTypeClusterIP && len(svc.Spec.ExternalIPs) > 0
	return external && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func affinityOf(svc *corev1.Service) int {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return int(*c.ClientIP.TimeoutSeconds)
	}
	return int(corev1.DefaultClientIPServiceAffinitySeconds)
}

// clusterIPOf returns the Service's cluster IP of a family, or an invalid address.
func clusterIPOf(svc *corev1.Service, family corev1.IPFamily) netip.Addr {
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return netip.Addr{}
	}
	ips := addressesOf(family, svc.Spec.ClusterIPs)
	if len(svc.Spec.ClusterIPs) == 0 {
		ips = addressesOf(family, []string{svc.Spec.ClusterIP})
	}
	if len(ips) == 0 {
		return netip.Addr{}
	}
	return ips[0]
}

// virtualIPs returns the ingress addresses that clients' packets still carry when they reach a node.
func virtualIPs(ingress []corev1.LoadBalancerIngress) []string {
	var ips []string
	for _, in := range ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			ips = append(ips, in.IP)
		}
	}
	return ips
}

// addressesOf returns the addresses of a family; the API server has validated them.
func addressesOf(family corev1.IPFamily, texts []string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && isFamily(addr.Unmap(), family) {
			addrs = append(addrs, addr.Unmap())
		}
	}
	return addrs
}

// sourceRangesOf returns the ranges of a family. One that holds all addresses is as good as none.
func sourceRangesOf(family corev1.IPFamily, texts []string) []netip.Prefix {
	var ranges []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text)) // validation allows white space around it
		if err != nil || !isFamily(prefix.Addr(), family) {
			continue
		}
		if prefix.Bits() == 0 {
			return nil
		}
		ranges = append(ranges, prefix.Masked())
	}
	return ranges
}

func isFamily(addr netip.Addr, family corev1.IPFamily) bool {
	return addr.Is4() == (family == corev1.IPv4Protocol)
}

// candidate is an endpoint of a Service as its slices describe it.
type candidate struct {
	addr                        netip.AddrPort
	ready, serving, terminating bool
	local, elsewhere            bool // on this node, on another; neither if unknown
	hints                       *discoveryv1.EndpointHints
}

// collect gathers the endpoints of a named port, sorted by address, each once.
func collect(epSlices []*discoveryv1.EndpointSlice, portName string, protocol corev1.Protocol, nodeName string, family corev1.IPFamily) []candidate {
	byAddr := map[netip.AddrPort]candidate{}
	for _, slice := range epSlices {
		if !isSliceOf(slice, family) {
			continue
		}
		for _, port := range slice.Ports {
			if port.Port == nil || *port.Port == 0 || deref(port.Name, "") != portName || deref(port.Protocol, corev1.ProtocolTCP) != protocol {
				continue
			}
			for i := range slice.Endpoints {
				ep := &slice.Endpoints[i]
				if len(ep.Addresses) == 0 {
					continue
				}
				ip, err := netip.ParseAddr(ep.Addresses[0])
				if err != nil {
					continue
				}
				c := candidate{
					addr:        netip.AddrPortFrom(ip.Unmap(), uint16(*port.Port)),
					ready:       deref(ep.Conditions.Ready, true),
					serving:     deref(ep.Conditions.Serving, true),
					terminating: deref(ep.Conditions.Terminating, false),
					local:       ep.NodeName != nil && *ep.NodeName == nodeName,
					elsewhere:   ep.NodeName != nil && *ep.NodeName != nodeName,
					hints:       ep.Hints,
				}
				// An address may be in two slices while it moves, or belong to a new pod and to the
				// one that is leaving: the one that stays counts.
				if _, twice := byAddr[c.addr]; !twice || !c.terminating {
					byAddr[c.addr] = c
				}
			}
		}
	}
	list := make([]candidate, 0, len(byAddr))
	for _, c := range byAddr {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b candidate) int { return a.addr.Compare(b.addr) })
	return list
}

func isSliceOf(slice *discoveryv1.EndpointSlice, family corev1.IPFamily) bool {
	if family == corev1.IPv6Protocol {
		return slice.AddressType == discoveryv1.AddressTypeIPv6
	}
	return slice.AddressType == discoveryv1.AddressTypeIPv4
}

// choose decides which endpoints the port uses on this node: the ready ones that traffic distribution wants,
// or else those that are going but still serve, separately for both policies.
func choose(all []candidate, port *servicePort, here node) endpoints {
	var e endpoints
	for _, c := range all {
		if c.ready && c.local {
			e.readyHere = append(e.readyHere, c.addr.Addr())
		}
		if c.serving {
			e.serving = append(e.serving, c.addr)
		}
	}
	ready := func(c candidate) bool { return c.ready }
	leaving := func(c candidate) bool { return !c.ready && c.serving && c.terminating }
	if port.usesCluster() {
		preferred := preference(all, here)
		e.cluster = addrs(all, func(c candidate) bool { return c.ready && preferred(c) })
		if len(e.cluster) == 0 {
			e.cluster = addrs(all, func(c candidate) bool { return c.serving && c.terminating })
		}
		e.some = len(e.cluster) > 0
	}
	if port.usesLocal() {
		e.some = e.some || slices.ContainsFunc(all, ready) || slices.ContainsFunc(all, leaving)
		e.local = addrs(all, func(c candidate) bool { return c.local && c.ready })
		if len(e.local) == 0 {
			e.local = addrs(all, func(c candidate) bool { return c.local && leaving(c) })
		}
	}
	e.reachable = slices.Concat(e.cluster, e.local)
	slices.SortFunc(e.reachable, netip.AddrPort.Compare)
	e.reachable = slices.Compact(e.reachable)
	e.hairpin = addrs(all, func(c candidate) bool {
		_, used := slices.BinarySearchFunc(e.reachable, c.addr, netip.AddrPort.Compare)
		return used && !c.elsewhere
	})
	return e
}

// preference returns which ready endpoints the hints leave for this node. Hints count only if every ready endpoint
// has one and at least one is for here; those for a node go before those for a zone.
func preference(all []candidate, here node) func(candidate) bool {
	forNode := func(c candidate) bool {
		return c.hints != nil && slices.Contains(c.hints.ForNodes, discoveryv1.ForNode{Name: here.name})
	}
	forZone := func(c candidate) bool {
		return c.hints != nil && slices.Contains(c.hints.ForZones, discoveryv1.ForZone{Name: here.zone})
	}
	allNodes, allZones, someNode, someZone := true, true, false, false
	for _, c := range all {
		if !c.ready {
			continue
		}
		allNodes = allNodes && c.hints != nil && len(c.hints.ForNodes) > 0
		allZones = allZones && c.hints != nil && len(c.hints.ForZones) > 0
		someNode, someZone = someNode || forNode(c), someZone || forZone(c)
	}
	switch {
	case allNodes && someNode:
		return forNode
	case allZones && someZone:
		return forZone
	}
	return func(candidate) bool { return true }
}

func addrs(all []candidate, keep func(candidate) bool) []netip.AddrPort {
	var list []netip.AddrPort
	for _, c := range all {
		if keep(c) {
			list = append(list, c.addr)
		}
	}
	return list
}

func deref[T any](p *T, absent T) T {
	if p == nil {
		return absent
	}
	return *p
}
