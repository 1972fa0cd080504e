// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Cluster is a number of hosts on one network. Nothing else is on it, and nothing leaves it.
type Cluster struct {
	outside *namespaceHolder // the namespace with the bridge

	mu    sync.Mutex // guards hosts
	hosts []*Host
}

const (
	bridgeName = "hosts"
	linkName   = "eth0"
	maxHosts   = 200
)

// The addresses exist inside the namespaces only, so that all clusters can have the same ones.
var (
	gatewayIPv4 = net.IPv4(192, 168, 231, 1).To4()
	gatewayIPv6 = net.ParseIP("fd00:736b:6966::1")
)

// setUpOutside makes the gateway answer, as often as it is asked, that it knows no way on. One that does
// not forward would drop the packets instead.
const setUpOutside = `
set -e
exec 2>&1
cd /proc/sys/net
echo 1 >ipv4/ip_forward
echo 1 >ipv6/conf/all/forwarding
echo 0 >ipv4/icmp_ratelimit
echo 0 >ipv6/icmp/ratelimit
echo ready
`

// link is one host's place on the bridge.
type link struct {
	peer       string // the end on the bridge
	ipv4, ipv6 net.IPNet
}

// NewCluster makes n hosts that see each other. They go when the test ends; more can be added.
func NewCluster(t T, n int) *Cluster {
	t.Helper()
	outside, err := holdNamespaces(setUpOutside, syscall.CLONE_NEWNET)
	if err != nil {
		t.Fatalf("make a test host's network: %v", err)
	}
	c := &Cluster{outside: outside}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Logf("close test hosts: %v", err)
		}
	})
	if err := c.makeBridge(); err != nil {
		t.Fatalf("make a test host's network: %v", err)
	}
	for range n {
		c.Add(t, Options{})
	}
	return c
}

// Hosts are all hosts, in the order in which they were made.
func (c *Cluster) Hosts() []*Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*Host(nil), c.hosts...)
}

// Add makes one more host.
func (c *Cluster) Add(t T, opts Options) *Host {
	t.Helper()
	h, err := c.add(opts)
	if err != nil {
		t.Fatalf("make a test host: %v", err)
	}
	return h
}

func (c *Cluster) add(opts Options) (*Host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	number := len(c.hosts) + 1
	if number > maxHosts {
		return nil, fmt.Errorf("%d hosts are the most that a cluster can have", maxHosts)
	}
	if opts.Name == "" {
		opts.Name = fmt.Sprintf("host-%d", number)
	}
	dir, err := os.MkdirTemp("", "testhost-")
	if err != nil {
		return nil, err
	}
	h, err := newHost(opts.Name, dir, newLink(number), opts.PrivateDirs)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	c.hosts = append(c.hosts, h)
	if err := c.connect(h); err != nil {
		return nil, fmt.Errorf("connect %s: %w", h.name, err)
	}
	return h, h.Mark()
}

// Close closes all hosts and their network.
func (c *Cluster) Close() error {
	var errs []error
	for _, h := range c.Hosts() {
		errs = append(errs, h.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outside != nil {
		errs = append(errs, c.outside.close())
		c.outside = nil
	}
	return errors.Join(errs...)
}

func newLink(number int) link {
	v4 := append(net.IP(nil), gatewayIPv4...)
	v4[3] = byte(10 + number)
	v6 := append(net.IP(nil), gatewayIPv6...)
	v6[15] = byte(10 + number)
	return link{
		peer: fmt.Sprintf("host-%d", number),
		ipv4: net.IPNet{IP: v4, Mask: net.CIDRMask(24, 32)},
		ipv6: net.IPNet{IP: v6, Mask: net.CIDRMask(64, 128)},
	}
}

// makeBridge makes the hosts' gateway, and the end of all ways there.
func (c *Cluster) makeBridge() error {
	return c.outside.withNetlink(func(nl *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		bridge := &netlink.Bridge{LinkAttrs: attrs}
		if err := nl.LinkAdd(bridge); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		if err := errors.Join(linkUp(nl, "lo"), nl.LinkSetUp(bridge)); err != nil {
			return err
		}
		for _, address := range []net.IPNet{
			{IP: gatewayIPv4, Mask: net.CIDRMask(24, 32)},
			{IP: gatewayIPv6, Mask: net.CIDRMask(64, 128)},
		} {
			if err := addAddress(nl, bridge, address); err != nil {
				return err
			}
		}
		for _, everywhere := range []string{"0.0.0.0/0", "::/0"} {
			_, dst, err := net.ParseCIDR(everywhere)
			if err != nil {
				return err
			}
			if err := nl.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_UNREACHABLE}); err != nil {
				return fmt.Errorf("route %s to nowhere: %w", everywhere, err)
			}
		}
		return nil
	})
}

// connect plugs the host into the bridge.
func (c *Cluster) connect(h *Host) error {
	err := c.outside.withNetlink(func(nl *netlink.Handle) error {
		bridge, err := nl.LinkByName(bridgeName)
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = h.link.peer
		attrs.MasterIndex = bridge.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: linkName, PeerNamespace: netlink.NsFd(h.pause.net.Fd())}
		if err := nl.LinkAdd(veth); err != nil {
			return fmt.Errorf("add veth: %w", err)
		}
		return nl.LinkSetUp(veth)
	})
	if err != nil {
		return err
	}
	return h.pause.withNetlink(func(nl *netlink.Handle) error {
		if err := errors.Join(linkUp(nl, "lo"), linkUp(nl, linkName)); err != nil {
			return err
		}
		eth, err := nl.LinkByName(linkName)
		if err != nil {
			return err
		}
		if err := errors.Join(addAddress(nl, eth, h.link.ipv4), addAddress(nl, eth, h.link.ipv6)); err != nil {
			return err
		}
		for _, gateway := range []net.IP{gatewayIPv4, gatewayIPv6} {
			if err := nl.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway}); err != nil {
				return fmt.Errorf("route by %s: %w", gateway, err)
			}
		}
		return nil
	})
}

func linkUp(nl *netlink.Handle, name string) error {
	l, err := nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return nl.LinkSetUp(l)
}

func addAddress(nl *netlink.Handle, l netlink.Link, address net.IPNet) error {
	// Without the flag an IPv6 address could not be used for a second, until it is known to be unique.
	if err := nl.AddrAdd(l, &netlink.Addr{IPNet: &address, Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("add address %s: %w", address.IP, err)
	}
	return nil
}

func (n *namespaceHolder) withNetlink(f func(*netlink.Handle) error) error {
	nl, err := netlink.NewHandleAt(netns.NsHandle(n.net.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer nl.Close()
	return f(nl)
}
