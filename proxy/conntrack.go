// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// flows names UDP flows by where they were sent, each with the endpoints that may go on answering them. What the kernel
// remembers of a UDP flow lives as long as packets come, also when the endpoint that they are led to is gone.
type flows struct {
	byAddress  map[netip.AddrPort]map[netip.AddrPort]bool
	byNodePort map[uint16]map[netip.AddrPort]bool
}

// staleFlows returns the flows to look at after a change of Services: to UDP ports that lost an endpoint, are new, or
// are gone.
func staleFlows(before, after map[types.NamespacedName][]servicePort, full bool) flows {
	f := flows{byAddress: map[netip.AddrPort]map[netip.AddrPort]bool{}, byNodePort: map[uint16]map[netip.AddrPort]bool{}}
	removed := func(name types.NamespacedName) {
		for _, port := range before[name] {
			port.serving = nil
			f.add(&port)
		}
	}
	if full {
		for name := range before {
			removed(name)
		}
	}
	for name, ports := range after {
		if !slices.ContainsFunc(slices.Concat(before[name], ports), isUDP) {
			continue
		}
		if slices.EqualFunc(before[name], ports, sameFlows) {
			continue
		}
		removed(name)
	}
	for name, ports := range after { // after all that was removed: an address may have moved between Services
		if !full && slices.EqualFunc(before[name], ports, sameFlows) {
			continue
		}
		for i := range ports {
			f.add(&ports[i])
		}
	}
	return f
}

func isUDP(p servicePort) bool { return p.protocol == "udp" }

// sameFlows tells whether all flows to a port may go on as they are.
func sameFlows(a, b servicePort) bool {
	return a.protocol == b.protocol && a.port == b.port && a.nodePort == b.nodePort && a.clusterIP == b.clusterIP &&
		slices.Equal(a.externalIPs, b.externalIPs) && slices.Equal(a.loadBalancerIPs, b.loadBalancerIPs) &&
		!slices.ContainsFunc(a.serving, func(ep netip.AddrPort) bool { return !slices.Contains(b.serving, ep) }) &&
		(len(a.serving) > 0 || len(b.serving) == 0)
}

func (f *flows) add(p *servicePort) {
	if p.protocol != "udp" {
		return
	}
	serving := maps.Collect(func(yield func(netip.AddrPort, bool) bool) {
		for _, ep := range p.serving {
			if !yield(ep, true) {
				return
			}
		}
	})
	for _, ip := range slices.Concat([]netip.Addr{p.clusterIP}, p.externalIPs, p.loadBalancerIPs) {
		f.byAddress[netip.AddrPortFrom(ip, p.port)] = serving
	}
	// A node port stands for the port on any address, also that of a flow to another machine: without endpoints
	// nothing tells the two apart.
	if p.nodePort != 0 && len(serving) > 0 {
		f.byNodePort[p.nodePort] = serving
	}
}

// MatchConntrackFlow tells whether a flow leads to where it must not any more (netlink.CustomConntrackFilter).
func (f flows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	answers := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort)
	if serving, ok := f.byAddress[addrPort(flow.Forward.DstIP, flow.Forward.DstPort)]; ok {
		return !serving[answers]
	}
	serving, ok := f.byNodePort[flow.Forward.DstPort]
	return ok && !serving[answers]
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// Limits of the kernel's table of flows, as upstream's proxy sets them.
const (
	flowsPerCPU      = 32 << 10
	minFlows         = 128 << 10
	maxFlows         = 1 << 20
	flowsPerBucket   = 4
	establishedFlow  = 24 * time.Hour
	halfClosedFlow   = time.Hour // long enough for one side to end after the other
	conntrackSysctls = "/proc/sys/net/netfilter/nf_conntrack_"
	conntrackBuckets = "/sys/module/nf_conntrack/parameters/hashsize"
)

// makeRoom lets the kernel remember enough flows for this machine, and forget TCP connections in which nothing happens. In a
// network namespace that is not the machine's own, only the latter can be set.
func makeRoom(cpus int) error {
	wanted := min(max(flowsPerCPU*cpus, minFlows), maxFlows)
	err := raise(conntrackSysctls+"max", wanted)
	if err == nil {
		err = raise(conntrackBuckets, wanted/flowsPerBucket)
	}
	return errors.Join(err,
		write(conntrackSysctls+"tcp_timeout_established", int(establishedFlow.Seconds())),
		write(conntrackSysctls+"tcp_timeout_close_wait", int(halfClosedFlow.Seconds())))
}

// raise makes the number in a file of the kernel's at least n.
func raise(path string, n int) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if old, err := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || old >= n {
		return err
	}
	return write(path, n)
}

func write(path string, n int) error { return os.WriteFile(path, []byte(strconv.Itoa(n)), 0) }

// maxDumps is how often flows are listed if others change them meanwhile: then some may have been left out.
const maxDumps = 5

// clearFlows makes the kernel forget stale flows, so that their next packet is led anew. It returns how many there were.
func clearFlows(family corev1.IPFamily, stale flows) (cleared uint, err error) {
	if len(stale.byAddress) == 0 && len(stale.byNodePort) == 0 {
		return 0, nil
	}
	netFamily := netlink.InetFamily(unix.AF_INET)
	if family == corev1.IPv6Protocol {
		netFamily = unix.AF_INET6
	}
	for range maxDumps {
		var n uint
		n, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netFamily, stale)
		cleared += n
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return cleared, err
}
