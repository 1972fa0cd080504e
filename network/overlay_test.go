// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/network/nettest"
)

// machine is a node without pods of its own: what pods have are addresses of its loopback interface.
type machine struct {
	t    *testing.T
	path string // its network namespace
	net  *Network
	peer Peer // as others see it
}

func newMachine(t *testing.T, name string, backend Backend, address string, pods ...string) *machine {
	t.Helper()
	m := &machine{t: t, path: nettest.NewNetns(t, name), peer: Peer{Address: netip.MustParseAddr(address)}}
	for _, p := range pods {
		m.peer.PodCIDRs = append(m.peer.PodCIDRs, netip.MustParsePrefix(p))
	}
	var err error
	m.net, err = New(Config{DataDir: t.TempDir(), Bridge: "skiff0", Backend: backend, NodeAddress: m.peer.Address})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pod gives an address of the machine's pods to a server of that name.
func (m *machine) pod(address, name string) {
	m.t.Helper()
	addr := netip.MustParseAddr(address)
	m.in(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(addr, addr.BitLen()), Flags: unix.IFA_F_NODAD})
	})
	nettest.Serve(m.t, m.path, "tcp", netip.AddrPortFrom(addr, 80).String(), name)
}

func (m *machine) in(f func() error) {
	m.t.Helper()
	if err := nettest.In(m.t, m.path, f); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) connect(peers ...Peer) {
	m.t.Helper()
	m.in(func() error { return m.net.connect(m.t.Context(), m.peer.PodCIDRs, peers) })
}

func (m *machine) asks(address, want string) {
	m.t.Helper()
	nettest.Eventually(m.t, "an answer from "+address, func() error {
		got, _, err := nettest.Ask(m.t, m.path, "tcp", address)
		if err == nil && got != want {
			err = fmt.Errorf("%s answers, want %s", got, want)
		}
		return err
	})
}

func (m *machine) routes() (out []netlink.Route) {
	m.t.Helper()
	m.in(func() (err error) {
		out, err = netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		return err
	})
	return out
}

// Pods of one node reach those of another, of both families with VXLAN, also when the other gets another address, and
// nothing is left of a node that has gone.
func TestNodesReachEachOthersPods(t *testing.T) {
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			a := newMachine(t, "a", backend, "192.0.2.1", "10.42.0.0/24", "fd42::/64")
			b := newMachine(t, "b", backend, "192.0.2.2", "10.42.1.0/24", "fd42:0:0:1::/64")
			nettest.Connect(t, a.path, "eth0", "192.0.2.1/24", b.path, "eth0", "192.0.2.2/24")
			a.pod("10.42.0.5", "on-a")
			b.pod("10.42.1.5", "on-b")
			b.pod("fd42:0:0:1::5", "on-b")
			for range 2 { // the second time nothing changes
				a.connect(b.peer)
				b.connect(a.peer)
				a.asks("10.42.1.5:80", "on-b")
				b.asks("10.42.0.5:80", "on-a")
				if backend == VXLAN {
					a.asks("[fd42:0:0:1::5]:80", "on-b")
				}
			}
			if backend == VXLAN {
				a.in(func() error {
					tunnel, err := netlink.LinkByName(a.net.tunnelName())
					if err == nil && tunnel.Attrs().MTU != 1450 {
						err = fmt.Errorf("the tunnel's MTU is %d, want 1450", tunnel.Attrs().MTU)
					}
					return err
				})
			}

			b.in(func() error {
				eth0, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				return netlink.AddrReplace(eth0, &netlink.Addr{IPNet: ipNet(netip.MustParseAddr("192.0.2.3"), 24)})
			})
			b.peer.Address = netip.MustParseAddr("192.0.2.3")
			b.net.cfg.NodeAddress = b.peer.Address
			a.connect(b.peer)
			b.connect(a.peer)
			a.asks("10.42.1.5:80", "on-b")

			a.connect()
			if left := a.routes(); len(left) > 0 {
				t.Errorf("without other nodes there are routes: %v", left)
			}
			a.in(func() error {
				if _, err := netlink.LinkByName(a.net.tunnelName()); !isNotFound(err) {
					return fmt.Errorf("without other nodes there is a tunnel: %w", err)
				}
				return nil
			})
			b.in(b.net.disconnect)
			if left := b.routes(); len(left) > 0 {
				t.Errorf("after the end there are routes: %v", left)
			}
		})
	}
}
