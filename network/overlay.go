// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Backend is how pods reach pods on other nodes.
type Backend string

// Backends. By VXLAN nodes need nothing but UDP between them. By HostGW a node's address is the gateway to its pods,
// which costs nothing and needs all nodes on one network.
const (
	VXLAN  Backend = "vxlan"
	HostGW Backend = "host-gw"
)

// Peer is another node of the cluster.
type Peer struct {
	Address  netip.Addr // by which nodes reach each other
	PodCIDRs []netip.Prefix
}

// The tunnel between nodes. Everything that a node must know of another one follows from the other's Node: its
// address, and the addresses of its end of the tunnel from its pod CIDRs. So nothing has to be published.
const (
	vxlanID   = 1
	vxlanPort = 8472 // Linux's; flannel's too

	// What the outer headers take: Ethernet, IP, UDP, VXLAN.
	vxlanOverheadIPv4 = 50
	vxlanOverheadIPv6 = 70

	// routeProtocol marks our routes, so that those that are out of date can be told from others. (A number that
	// iproute2 has no name for.)
	routeProtocol netlink.RouteProtocol = 83
)

// tunnelEnd is the address of a node's end of the tunnel: the first of a pod CIDR, which no pod gets.
func tunnelEnd(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr() }

// SetPeers tells which other nodes there are. It may be called at any time, from one goroutine, also again with the
// same value.
func (n *Network) SetPeers(peers []Peer) {
	select {
	case <-n.peers: // replaced before Run took it
	default:
	}
	n.peers <- peers
}

// overhead is by how much the tunnel makes packets longer.
func (c *Config) overhead() int {
	switch {
	case c.Backend != VXLAN:
		return 0
	case c.NodeAddress.Is6():
		return vxlanOverheadIPv6
	}
	return vxlanOverheadIPv4
}

// connect makes the routes to the peers' pods, and no others of ours. Without peers there is nothing.
func (n *Network) connect(ctx context.Context, own []netip.Prefix, peers []Peer) error {
	if len(peers) == 0 && !n.connected {
		return nil
	}
	want, err := n.routes(ctx, own, peers)
	if err != nil {
		return fmt.Errorf("connect to other nodes: %w", err)
	}
	if err := setRoutes(want); err != nil {
		return fmt.Errorf("route to other nodes: %w", err)
	}
	n.connected = len(peers) > 0
	if n.connected {
		klog.FromContext(ctx).V(2).Info("Connected to other nodes", "nodes", len(peers), "backend", n.cfg.Backend)
	}
	return nil
}

func (n *Network) routes(ctx context.Context, own []netip.Prefix, peers []Peer) ([]netlink.Route, error) {
	if n.cfg.Backend == HostGW {
		return n.gatewayRoutes(ctx, peers)
	}
	name := n.tunnelName()
	if len(peers) == 0 {
		return nil, removeLink(name)
	}
	tunnel, err := ensureTunnel(name, n.cfg.NodeAddress, n.mtu(), own)
	if err != nil {
		return nil, fmt.Errorf("set up %s: %w", name, err)
	}
	if err := setNeighbours(tunnel, peers); err != nil {
		return nil, fmt.Errorf("set neighbours of %s: %w", name, err)
	}
	var routes []netlink.Route
	for _, peer := range peers {
		for _, cidr := range peer.PodCIDRs {
			routes = append(routes, netlink.Route{
				LinkIndex: tunnel.Attrs().Index, Dst: ipNet(cidr.Addr(), cidr.Bits()), Gw: tunnelEnd(cidr).AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: routeProtocol,
			})
		}
	}
	return routes, nil
}

// gatewayRoutes leads to pods by their nodes' addresses, which must be on a network of this one.
func (n *Network) gatewayRoutes(ctx context.Context, peers []Peer) ([]netlink.Route, error) {
	var routes []netlink.Route
	for _, peer := range peers {
		by, err := netlink.RouteGet(peer.Address.AsSlice())
		if err != nil {
			return nil, fmt.Errorf("find the way to %s: %w", peer.Address, err)
		}
		if len(by) == 0 || len(by[0].Gw) > 0 {
			klog.FromContext(ctx).Error(nil, "A node is not on a network of this one, so its pods cannot be reached (choose --network=skiff)", "address", peer.Address)
			continue
		}
		for _, cidr := range peer.PodCIDRs {
			if cidr.Addr().Is4() != peer.Address.Is4() {
				continue
			}
			routes = append(routes, netlink.Route{LinkIndex: by[0].LinkIndex, Dst: ipNet(cidr.Addr(), cidr.Bits()), Gw: peer.Address.AsSlice(), Protocol: routeProtocol})
		}
	}
	return routes, nil
}

func (n *Network) tunnelName() string { return n.cfg.Bridge + ".v" }

// ensureTunnel makes the node's end of the tunnel. One that was made otherwise is made anew.
func ensureTunnel(name string, local netip.Addr, mtu int, own []netip.Prefix) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = name, mtu, macFor(tunnelEnd(own[0]))
	want := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vxlanID, Port: vxlanPort, SrcAddr: local.AsSlice(), Learning: false}
	link, err := netlink.LinkByName(name)
	if err == nil && !sameTunnel(link, want) {
		if err := deleteLink(link); err != nil {
			return nil, err
		}
		link, err = netlink.LinkByName(name)
	}
	if isNotFound(err) {
		if err := netlink.LinkAdd(want); errors.Is(err, unix.EOPNOTSUPP) {
			return nil, errors.New("the kernel has no VXLAN (modprobe vxlan, or choose --network=host-gw)")
		} else if err != nil {
			return nil, err
		}
		link, err = netlink.LinkByName(name)
	}
	if err != nil {
		return nil, err
	}
	_ = setSysctl("net/ipv6/conf/"+name+"/accept_dad", "0") // absent without IPv6
	_ = setSysctl("net/ipv6/conf/"+name+"/accept_ra", "0")
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	for _, cidr := range own {
		end := tunnelEnd(cidr)
		addr := &netlink.Addr{IPNet: ipNet(end, end.BitLen()), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return nil, fmt.Errorf("add address %s: %w", end, err)
		}
	}
	return link, nil
}

func sameTunnel(link netlink.Link, want *netlink.Vxlan) bool {
	have, ok := link.(*netlink.Vxlan)
	return ok && have.VxlanId == want.VxlanId && have.Port == want.Port && have.SrcAddr.Equal(want.SrcAddr) &&
		have.MTU == want.MTU && slices.Equal(have.HardwareAddr, want.HardwareAddr)
}

// setNeighbours tells the kernel what it would otherwise have to ask for: which interface address each end of the tunnel
// has, and behind which node that is.
func setNeighbours(tunnel netlink.Link, peers []Peer) error {
	index := tunnel.Attrs().Index
	want := map[string]bool{}
	for _, peer := range peers {
		if len(peer.PodCIDRs) == 0 {
			continue
		}
		mac := macFor(tunnelEnd(peer.PodCIDRs[0]))
		entries := []netlink.Neigh{{
			LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, IP: peer.Address.AsSlice(), HardwareAddr: mac,
		}}
		for _, cidr := range peer.PodCIDRs {
			entries = append(entries, netlink.Neigh{LinkIndex: index, Family: int(netlinkFamily(cidr.Addr())), State: netlink.NUD_PERMANENT, IP: tunnelEnd(cidr).AsSlice(), HardwareAddr: mac})
		}
		for _, entry := range entries {
			if err := netlink.NeighSet(&entry); err != nil {
				return fmt.Errorf("set %s: %w", entry.IP, err)
			}
			want[neighbourKey(entry)] = true
		}
	}
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		existing, err := netlink.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		for _, entry := range existing {
			entry.Family = family
			if entry.State&netlink.NUD_PERMANENT == 0 || want[neighbourKey(entry)] {
				continue
			}
			if err := netlink.NeighDel(&entry); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("remove %s: %w", entry.IP, err)
			}
		}
	}
	return nil
}

func neighbourKey(n netlink.Neigh) string {
	return fmt.Sprintf("%d %s %s", n.Family, n.IP, n.HardwareAddr)
}

func netlinkFamily(addr netip.Addr) netlink.InetFamily {
	if addr.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// setRoutes makes the routes that are marked as ours those that are wanted.
func setRoutes(want []netlink.Route) error {
	existing, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list: %w", err)
	}
	var errs []error
	for _, route := range existing {
		if !slices.ContainsFunc(want, func(w netlink.Route) bool { return sameRoute(w, route) }) {
			if err := netlink.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove %s: %w", route.Dst, err))
			}
		}
	}
	for _, route := range want {
		if slices.ContainsFunc(existing, func(e netlink.Route) bool { return sameRoute(route, e) }) {
			continue
		}
		if err := netlink.RouteReplace(&route); err != nil {
			errs = append(errs, fmt.Errorf("add %s: %w", route.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func sameRoute(a, b netlink.Route) bool {
	return a.LinkIndex == b.LinkIndex && a.Gw.Equal(b.Gw) && sameNet(a.Dst, b.Dst)
}

func sameNet(a, b *net.IPNet) bool { return a != nil && b != nil && a.String() == b.String() }

// removeLink removes an interface that may not exist.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return deleteLink(link)
}

// disconnect removes all that leads to other nodes.
func (n *Network) disconnect() error {
	return errors.Join(setRoutes(nil), removeLink(n.tunnelName()))
}
