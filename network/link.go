// SPDX-License-Identifier: Apache-2.0

package network

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// plugged tells what ADD reports of the interfaces.
type plugged struct {
	bridgeMAC, hostMAC, podMAC string
	mtu                        int
}

// vethName names the node's end of an attachment: always the same for the same attachment.
func vethName(containerID, ifname string) string {
	sum := sha256.Sum256([]byte(attachmentKey(containerID, ifname)))
	return "veth" + hex.EncodeToString(sum[:4])
}

// macFor derives an interface's address from its IP address. When an IP address moves on to another pod, what
// neighbours remember of it stays true.
func macFor(addr netip.Addr) net.HardwareAddr {
	bytes := addr.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, bytes[len(bytes)-4:]...)
}

func ipNet(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, addr.BitLen())}
}

// ensureBridge makes the bridge exist with exactly one address per CIDR.
func ensureBridge(name string, mtu int, cidrs []netip.Prefix) error {
	bridge, err := netlink.LinkByName(name)
	if isNotFound(err) {
		snooping := false
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, macFor(gateway(cidrs[0]))
		if err = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return fmt.Errorf("add: %w", err)
		}
		bridge, err = netlink.LinkByName(name)
	}
	if err != nil {
		return err
	}
	if bridge.Type() != "bridge" {
		return fmt.Errorf("interface exists and is a %s, not a bridge (rename one of the two)", bridge.Type())
	}
	if bridge.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(bridge, mtu); err != nil {
			return fmt.Errorf("set MTU: %w", err)
		}
	}
	// The node asks for its neighbours' addresses from its link-local one; that must not first be in doubt for seconds.
	_ = setSysctl("net/ipv6/conf/"+name+"/accept_dad", "0") // absent without IPv6
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return setAddresses(bridge, cidrs)
}

func setAddresses(bridge netlink.Link, cidrs []netip.Prefix) error {
	existing, err := netlink.AddrList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	var wanted []netip.Prefix
	for _, cidr := range cidrs {
		wanted = append(wanted, netip.PrefixFrom(gateway(cidr), cidr.Bits()))
	}
	for _, addr := range existing {
		ip, _ := netip.AddrFromSlice(addr.IP)
		bits, _ := addr.Mask.Size()
		if ip = ip.Unmap(); ip.IsLinkLocalUnicast() || slices.Contains(wanted, netip.PrefixFrom(ip, bits)) {
			continue
		}
		if err := netlink.AddrDel(bridge, &addr); err != nil {
			return fmt.Errorf("remove address %s: %w", addr.IPNet, err)
		}
	}
	for _, prefix := range wanted {
		addr := &netlink.Addr{IPNet: ipNet(prefix.Addr(), prefix.Bits()), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(bridge, addr); err != nil {
			return fmt.Errorf("add address %s: %w", prefix, err)
		}
	}
	return nil
}

// routeServices leads what the node sends to Services to the bridge. It never gets there: the proxy's rules translate or
// refuse it. But without any route, as on a machine that is offline, it would fail before it meets a rule; and with
// only a default route, what is for no Service would leave the machine.
func routeServices(bridgeName string, services, pods []netip.Prefix) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	for _, service := range services {
		if len(ofFamily(pods, familyOf(service.Addr()))) == 0 {
			continue
		}
		route := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(service.Addr(), service.Bits()), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s: %w", service, err)
		}
	}
	return nil
}

// removeBridge removes the bridge and the node's end of every pod's interface on it.
func removeBridge(name string) error {
	bridge, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if link.Attrs().MasterIndex == bridge.Attrs().Index && link.Type() == "veth" {
			errs = append(errs, deleteLink(link))
		}
	}
	return errors.Join(append(errs, deleteLink(bridge))...)
}

// plugVeth makes the pod's interface and connects it to the bridge.
func plugVeth(bridgeName string, a *attachment, cidrs []netip.Prefix) (*plugged, error) {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", bridgeName, err)
	}
	host, err := netns.Get()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	res := &plugged{mtu: bridge.Attrs().MTU, bridgeMAC: bridge.Attrs().HardwareAddr.String()}
	err = inNetns(a.Netns, func() error {
		pod, err := addVeth(a, res.mtu, host)
		if err != nil {
			return err
		}
		res.podMAC = pod.Attrs().HardwareAddr.String()
		return configure(pod, a.Addresses, cidrs)
	})
	if err != nil {
		return nil, err
	}
	res.hostMAC, err = joinBridge(bridge, a.HostVeth)
	return res, err
}

// addVeth creates the pair from inside the pod; the other end appears in the host's namespace.
func addVeth(a *attachment, mtu int, host netns.NsHandle) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = a.Interface, mtu, macFor(a.Addresses[0])
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: a.HostVeth, PeerNamespace: netlink.NsFd(host)}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add veth pair %s, %s: %w", a.Interface, a.HostVeth, err)
	}
	return netlink.LinkByName(a.Interface)
}

// configure gives the pod's end addresses and routes. Only the gateway is on-link.
func configure(pod netlink.Link, addrs []netip.Addr, cidrs []netip.Prefix) error {
	// The node forwards from the bridge back to the bridge. Where it cannot be told not to, it advises
	// pods to talk to each other directly: they must not listen.
	for _, path := range []string{"ipv4/conf/all", "ipv4/conf/" + pod.Attrs().Name, "ipv6/conf/" + pod.Attrs().Name} {
		_ = setSysctl("net/"+path+"/accept_redirects", "0") // absent without IPv6; read-only in rootless set-ups
	}
	if err := netlink.LinkSetUp(pod); err != nil {
		return fmt.Errorf("set up %s: %w", pod.Attrs().Name, err)
	}
	for _, addr := range addrs {
		ip := &netlink.Addr{IPNet: ipNet(addr, addr.BitLen()), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(pod, ip); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
		gw := gatewayFor(addr, cidrs)
		if !gw.IsValid() {
			return fmt.Errorf("address %s is of no pod CIDR of the node", addr)
		}
		onLink := &netlink.Route{LinkIndex: pod.Attrs().Index, Dst: ipNet(gw, gw.BitLen()), Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteAdd(onLink); err != nil {
			return fmt.Errorf("add route to gateway %s: %w", gw, err)
		}
		any := defaultRoute(addr)
		def := &netlink.Route{LinkIndex: pod.Attrs().Index, Dst: ipNet(any.Addr(), any.Bits()), Gw: gw.AsSlice()}
		if err := netlink.RouteAdd(def); err != nil {
			return fmt.Errorf("add default route via %s: %w", gw, err)
		}
	}
	return nil
}

// joinBridge connects the node's end. With the br_netfilter module a packet that is addressed to the node and
// translated to a pod is sent to that pod's port straight away, also if it came from there: hence hairpin mode.
func joinBridge(bridge netlink.Link, name string) (mac string, err error) {
	veth, err := netlink.LinkByName(name)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	_ = setSysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1") // a port needs no address of its own; absent without IPv6
	if err := netlink.LinkSetMaster(veth, bridge); err != nil {
		return "", fmt.Errorf("connect %s to %s: %w", name, bridge.Attrs().Name, err)
	}
	if err := netlink.LinkSetHairpin(veth, true); err != nil {
		return "", fmt.Errorf("set hairpin mode of %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return "", fmt.Errorf("set up %s: %w", name, err)
	}
	return veth.Attrs().HardwareAddr.String(), nil
}

// deleteLink removes an interface; the kernel may have done so meanwhile, with the pod's namespace.
func deleteLink(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// checkVeth verifies the pod's end: there, up, with its addresses.
func checkVeth(a *attachment) error {
	if _, err := netlink.LinkByName(a.HostVeth); err != nil {
		return fmt.Errorf("find %s: %w", a.HostVeth, err)
	}
	return inNetns(a.Netns, func() error {
		link, err := netlink.LinkByName(a.Interface)
		if err != nil {
			return fmt.Errorf("find %s in the pod: %w", a.Interface, err)
		}
		if link.Attrs().Flags&net.FlagUp == 0 {
			return fmt.Errorf("%s in the pod is down", a.Interface)
		}
		existing, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, addr := range a.Addresses {
			if !slices.ContainsFunc(existing, func(e netlink.Addr) bool { return e.IP.Equal(addr.AsSlice()) }) {
				return fmt.Errorf("%s in the pod has lost its address %s", a.Interface, addr)
			}
		}
		return nil
	})
}

// limitBandwidth shapes what each end of the pair sends: the node's end for traffic to the pod, the pod's for
// traffic from it. A pod with NET_ADMIN can lift the latter.
func limitBandwidth(a *attachment, limits *bandwidth) error {
	if limits.IngressRate > 0 {
		if err := shape(a.HostVeth, limits.IngressRate, limits.IngressBurst); err != nil {
			return err
		}
	}
	if limits.EgressRate > 0 {
		return inNetns(a.Netns, func() error { return shape(a.Interface, limits.EgressRate, limits.EgressBurst) })
	}
	return nil
}

// shape limits what an interface sends; bit per second and bit.
func shape(name string, rate, burst uint64) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	const latency = 0.025 // seconds a packet may wait
	rateBytes, burstBytes := rate/8, min(burst/8, 1<<31)
	if burstBytes == 0 {
		burstBytes = max(rateBytes/10, 64<<10)
	}
	qdisc := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rateBytes,
		Limit:      uint32(min(float64(rateBytes)*latency+float64(burstBytes), 1<<32-1)),
		Buffer:     netlink.Xmittime(rateBytes, uint32(burstBytes)),
	}
	if err := netlink.QdiscReplace(qdisc); err != nil {
		return fmt.Errorf("shape %s: %w", name, err)
	}
	return nil
}

// uplinkMTU is the MTU of the interface with the default route; without one, the smallest of a real interface. Our own
// are none.
func uplinkMTU(own ...string) int {
	const ethernet = 1500
	if routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL); err == nil {
		for _, route := range routes {
			if route.Dst != nil && (route.Dst.IP == nil || !route.Dst.IP.IsUnspecified()) {
				continue
			}
			if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil && !slices.Contains(own, link.Attrs().Name) && link.Attrs().Flags&net.FlagLoopback == 0 {
				return link.Attrs().MTU
			}
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return ethernet
	}
	smallest := 0
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagLoopback != 0 || attrs.Flags&net.FlagUp == 0 || slices.Contains(own, attrs.Name) || attrs.MasterIndex != 0 {
			continue
		}
		if smallest == 0 || attrs.MTU < smallest {
			smallest = attrs.MTU
		}
	}
	if smallest == 0 {
		return ethernet
	}
	return smallest
}

// setForwarding makes the node a router. It returns what could not be set; many set-ups forbid some.
func setForwarding(cidrs []netip.Prefix) []error {
	var errs []error
	for _, cidr := range cidrs {
		if cidr.Addr().Is4() {
			errs = append(errs, setSysctl("net/ipv4/ip_forward", "1"))
		} else {
			errs = append(errs, setSysctl("net/ipv6/conf/all/forwarding", "1"))
		}
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// setBridgeSysctls lets connections to 127.0.0.1:hostPort pass to pods, and keeps the node from advising pods to
// talk to each other directly. (The kernel sends redirects if either "all" or the interface says so; other
// interfaces keep their own setting.)
func setBridgeSysctls(bridge string) []error {
	errs := []error{
		setSysctl("net/ipv4/conf/"+bridge+"/route_localnet", "1"),
		setSysctl("net/ipv4/conf/"+bridge+"/send_redirects", "0"),
		setSysctl("net/ipv4/conf/all/send_redirects", "0"),
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// setSysctl writes a sysctl of the calling thread's network namespace, unless it has the value already.
func setSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if old, err := os.ReadFile(path); err == nil && string(old) == value+"\n" {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// netnsExists tells whether path is a network namespace, and not the file that one was mounted on.
func netnsExists(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && int64(fs.Type) == unix.NSFS_MAGIC
}

// inNetns runs f in a network namespace, on a thread that does nothing else meanwhile.
func inNetns(path string, f func() error) error {
	target, err := netns.GetFromPath(path)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer target.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := netns.Set(target); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

func isNotFound(err error) bool {
	return errors.As(err, &netlink.LinkNotFoundError{})
}

// clearUDPFlows makes UDP flows to host ports be looked at again: what the kernel remembers of a flow outlives
// the rule that it came from.
func clearUDPFlows(ports []portMapping) {
	for _, port := range ports {
		if port.Protocol != "udp" {
			continue
		}
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			filter := &netlink.ConntrackFilter{}
			if filter.AddProtocol(unix.IPPROTO_UDP) != nil || filter.AddPort(netlink.ConntrackOrigDstPort, port.HostPort) != nil {
				continue
			}
			_, _ = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter) // best effort: flows time out
		}
	}
}
