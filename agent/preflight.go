// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Preflight finds out whether this machine can be a node at an address. The error is one line that says what to
// do. What it makes in order to find out, it removes again.
func (s *Settings) Preflight(ctx context.Context, address net.IP) error {
	for _, check := range []func() error{
		mayManageMachine, s.checkPrograms, s.checkCgroups, s.checkPorts, s.checkLinks,
		func() error { return isOurs(address) },
		func() error { return s.checkRuntime(ctx) },
		func() error { return checkRules(ctx) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// mayManageMachine looks for the capabilities without which no container starts. Root inside of a container
// often lacks them.
func mayManageMachine() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	for _, want := range []struct {
		bit  uint
		name string
	}{{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}} {
		if have[want.bit/32].Effective&(1<<(want.bit%32)) == 0 {
			return fmt.Errorf("a node needs the capability %s (in a container, run that as privileged; or use --no-node)", want.name)
		}
	}
	return nil
}

func (s *Settings) checkPrograms() error {
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore"} {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("a node needs the program %s (install the package iptables)", name)
		}
	}
	return nil
}

func (s *Settings) checkCgroups() error {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return nil // version 2
	}
	for _, controller := range []string{"cpu", "memory", "pids", "devices", "freezer"} {
		if _, err := os.Stat(filepath.Join(cgroupMount, controller)); err != nil {
			return fmt.Errorf("a node needs the cgroup controller %s (mount cgroup v2, or v1 with this controller, at %s)", controller, cgroupMount)
		}
	}
	return nil
}

// checkPorts finds another node on this machine before anything of ours is started.
func (s *Settings) checkPorts() error {
	for _, port := range []struct{ address, flag string }{
		{net.JoinHostPort("", strconv.Itoa(s.KubeletPort)), "--kubelet-port"},
		{s.ProxyHealth, "--proxy-health-address"},
		{s.ProxyMetrics, "--proxy-metrics-address"},
	} {
		l, err := net.Listen("tcp", port.address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("start the node: %w (end the other program or set %s)", err, port.flag)
		}
		if err != nil {
			return fmt.Errorf("start the node: %w (change %s)", err, port.flag)
		}
		_ = l.Close()
	}
	return nil
}

// probeName is the name of interfaces that live for a moment.
const probeName = "skiff-probe"

// checkLinks tries what the pod network is made of, unless it is there already.
func (s *Settings) checkLinks() error {
	if !s.ownNetwork() {
		return nil
	}
	if _, err := netlink.LinkByName(bridgeName); err == nil {
		return nil
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = probeName
	for _, link := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: attributes},
		&netlink.Veth{LinkAttrs: attributes, PeerName: probeName + "-2"},
	} {
		err := netlink.LinkAdd(link)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("the kernel has no network interfaces of type %s (modprobe %[1]s, or bring a network of your own with --network=none)", link.Type())
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("make a network interface of type %s: %w (is this a container without rights?)", link.Type(), err)
		}
		if err := netlink.LinkDel(link); err != nil {
			return fmt.Errorf("remove network interface %s: %w", probeName, err)
		}
	}
	return nil
}

// isOurs refuses an address that no interface of this machine has.
func isOurs(address net.IP) error {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("look for the node's address: %w", err)
	}
	var usable []string
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if n.IP.Equal(address) {
			return nil
		}
		if n.IP.IsGlobalUnicast() {
			usable = append(usable, n.IP.String())
		}
	}
	return fmt.Errorf("%s is not an address of this machine (set --node-ip to one of %s)", address, strings.Join(usable, ", "))
}

// checkRuntime calls at the socket of a container runtime that the user brings.
func (s *Settings) checkRuntime(ctx context.Context) error {
	if s.RuntimeEndpoint == "" {
		return nil
	}
	path, ok := strings.CutPrefix(s.RuntimeEndpoint, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return fmt.Errorf("container runtime endpoint %q is not like unix:///run/crio/crio.sock (change --container-runtime-endpoint)", s.RuntimeEndpoint)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("call the container runtime: %w (start it, or change --container-runtime-endpoint)", err)
	}
	return conn.Close()
}

// probeRules are of each kind that Services and the pod network are made of. They are made and removed in one
// transaction and so never seen by a packet.
const probeRules = `*nat
:SKIFF-PROBE - [0:0]
-A SKIFF-PROBE -p tcp -m comment --comment probe -m addrtype --dst-type LOCAL -j DNAT --to-destination 192.0.2.1:1
-A SKIFF-PROBE -m statistic --mode random --probability 0.5 -j MARK --or-mark 0x4000
-A SKIFF-PROBE -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
-F SKIFF-PROBE
-X SKIFF-PROBE
COMMIT
*filter
:SKIFF-PROBE - [0:0]
-A SKIFF-PROBE -m conntrack --ctstate INVALID -j DROP
-A SKIFF-PROBE -j REJECT
-F SKIFF-PROBE
-X SKIFF-PROBE
COMMIT
`

// rulesPatience is how long another program may hold the lock of iptables.
const rulesPatience = 10 * time.Second

// checkRules tries whether the kernel has what iptables needs.
func checkRules(ctx context.Context) error {
	wait := strconv.Itoa(int(rulesPatience.Seconds()))
	cmd := exec.CommandContext(ctx, "iptables-restore", "--noflush", "-w", wait)
	cmd.Stdin = strings.NewReader(probeRules)
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	said := slices.DeleteFunc(strings.Split(string(bytes.TrimSpace(out)), "\n"), func(line string) bool { return line == "" || strings.HasPrefix(line, "#") })
	said = append(said, err.Error())
	return fmt.Errorf("the kernel does not take the rules that Services are made of: %s (load the netfilter modules of iptables: modprobe ip_tables nf_nat xt_MASQUERADE xt_statistic xt_addrtype xt_conntrack)", said[0])
}
