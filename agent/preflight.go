// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Preflight finds out whether this machine can be a node. The error is one line that says what to do. What it
// makes in order to find out, it removes again.
func (s *Settings) Preflight() error {
	for _, check := range []func() error{mayManageMachine, s.checkPrograms, s.checkCgroups, s.checkPorts, s.checkLinks} {
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
	if s.Network != NetworkSkiff {
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
