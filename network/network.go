// SPDX-License-Identifier: Apache-2.0

// Package network is the pod network of one node: the server's side of the thin CNI plugin.
//
// Read in this order: this file (life cycle), server.go (the plugin's calls), attachments.go (who has
// which address), link.go (interfaces, addresses, routes), rules.go (packet rules), overlay.go (other nodes).
//
// Every pod gets a veth pair into a bridge, a /32 (and /128) address from the node's pod CIDRs and a
// default route to the bridge's address. Nothing is on-link for a pod but its gateway, so all it sends, also to
// a pod on the same node, is routed by the node and seen by its rules. That makes Services work
// without the br_netfilter module; with it they work too.
//
// What pods send out of the cluster is masqueraded; hostPorts are DNAT rules with the semantics (and the
// chain names) of the portmap plugin. Specification: https://www.cni.dev/docs/spec/ (1.1.0).
//
// The package never talks to the API server: it is told the node's pod CIDRs and its peers, and it is asked by
// the container runtime. An address belongs to the attachment whose record lies in the data directory, from
// before it is used until after the interface is gone; so a crash at any point neither hands out an
// address twice nor loses one.
package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/network/iptables"
	"github.com/skiff-k8s/skiff/network/policy"
)

// Config says where things are. All fields without "optional" are required.
type Config struct {
	DataDir      string         // records of attachments lie in DataDir/network
	Socket       string         // unix socket of the plugin, e.g. /run/skiff/cni.sock; at most 107 bytes
	ConfDir      string         // CNI configuration, e.g. /etc/cni/net.d
	PluginType   string         // file name of the thin CNI binary in the runtime's CNI bin directory
	Bridge       string         // e.g. skiff0
	ClusterCIDRs []netip.Prefix // pod addresses of the whole cluster: not masqueraded
	ServiceCIDRs []netip.Prefix // optional: get a route, so that Services can be used without a default route
	MTU          int            // optional; 0 is the MTU of the uplink, less what the way to other nodes takes of it
	Backend      Backend        // how pods reach pods on other nodes
	NodeAddress  netip.Addr     // by which other nodes reach this one
	// Policy is told which pods are attached. Optional.
	Policy Policy
	// OnReady is told the bridge's addresses, one per pod CIDR, whenever pods can be attached anew. Optional.
	OnReady func(gateways []netip.Addr)
}

// Policy isolates pods, by their addresses.
type Policy interface {
	// Adopt tells of a pod that is attached since an earlier run.
	Adopt(pod policy.Pod, addrs []netip.Addr)
	// Add puts a pod's policies in force, before it can send anything.
	Add(ctx context.Context, pod policy.Pod, addrs []netip.Addr) error
	// Remove tells that nobody has the addresses any more.
	Remove(ctx context.Context, addrs []netip.Addr) error
}

// conflistName sorts before what other networks install.
const conflistName = "10-skiff.conflist"

const (
	rulesCheckPeriod = time.Minute // how soon rules that somebody flushed come back
	maxRetryDelay    = 30 * time.Second
)

// Network serves the pod network of the node.
type Network struct {
	cfg         Config
	attachments *attachments
	rules       *rules
	podCIDRs    chan []netip.Prefix // capacity 1: the latest value that Run has not taken
	peers       chan []Peer         // as podCIDRs
	connected   bool                // there may be routes to peers; only Run's goroutine uses it

	mu    sync.Mutex
	ready []netip.Prefix // pod CIDRs that the bridge and the rules stand for; nil until then
}

// New returns a network for the network namespace of the calling thread's process. It changes nothing yet.
func New(cfg Config) (*Network, error) {
	if len(cfg.Socket) > 107 {
		return nil, fmt.Errorf("CNI socket path %q is longer than the 107 bytes that Linux allows (choose a shorter state directory)", cfg.Socket)
	}
	if cfg.Bridge == "" || len(cfg.Bridge) > 13 {
		return nil, fmt.Errorf("bridge name %q must have 1 to 13 bytes", cfg.Bridge)
	}
	return &Network{
		cfg:         cfg,
		attachments: newAttachments(filepath.Join(cfg.DataDir, "network")),
		rules:       newRules(cfg.ClusterCIDRs),
		podCIDRs:    make(chan []netip.Prefix, 1),
		peers:       make(chan []Peer, 1),
		connected:   true, // by an earlier run
	}, nil
}

// SetPodCIDRs tells the node's pod CIDRs: spec.podCIDRs of its Node. It may be called at any time, from one
// goroutine, also again with the same value.
func (n *Network) SetPodCIDRs(cidrs []string) error {
	var prefixes []netip.Prefix
	for _, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return fmt.Errorf("parse pod CIDR: %w", err)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	if len(prefixes) == 0 {
		return nil
	}
	select {
	case <-n.podCIDRs: // replaced before Run took it
	default:
	}
	n.podCIDRs <- prefixes
	return nil
}

// Run answers the CNI plugin until ctx ends. Interfaces, addresses and rules stay: pods go on without us.
func (n *Network) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("network")
	ctx = klog.NewContext(ctx, logger)
	released, err := n.attachments.load(netnsExists)
	if err != nil {
		return fmt.Errorf("load network attachments: %w", err)
	}
	for _, a := range released {
		logger.Info("Released the addresses of a pod that is gone", "containerID", a.ContainerID, "addresses", a.Addresses)
		if err := removeLink(a.HostVeth); err != nil {
			logger.Error(err, "Remove stale interface", "interface", a.HostVeth)
		}
	}
	if n.cfg.Policy != nil {
		for _, a := range n.attachments.all(func(*attachment) bool { return true }) {
			n.cfg.Policy.Adopt(a.Pod, a.Addresses)
		}
	}
	listener, err := listen(ctx, n.cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen for the CNI plugin: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { n.serve(ctx, listener) })
	n.follow(ctx)
	listener.Close()
	wg.Wait()
	return nil
}

// follow keeps the node's part of the network as the pod CIDRs want it.
func (n *Network) follow(ctx context.Context) {
	logger := klog.FromContext(ctx)
	var cidrs []netip.Prefix
	var peers []Peer
	peersKnown := false
	delay := time.Duration(0)
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case cidrs = <-n.podCIDRs:
			delay = 0
		case peers = <-n.peers:
			delay, peersKnown = 0, true
		case <-timer.C:
		}
		if len(cidrs) == 0 {
			continue // there is no pod network yet
		}
		var err error
		if slices.Equal(n.current(), cidrs) {
			err = n.rules.restoreIfGone(ctx)
		} else {
			err = n.setUp(ctx, cidrs)
		}
		if err == nil && peersKnown {
			err = n.connect(ctx, cidrs, peers)
		}
		if err != nil && ctx.Err() == nil {
			delay = min(max(2*delay, time.Second/4), maxRetryDelay)
			logger.Error(err, "Set up the pod network", "retryIn", delay)
			timer.Reset(delay)
			continue
		}
		delay = 0
		timer.Reset(rulesCheckPeriod)
	}
}

// setUp makes the node ready for pods of the given CIDRs, and only then says so to the container runtime.
func (n *Network) setUp(ctx context.Context, cidrs []netip.Prefix) error {
	for _, warning := range setForwarding(cidrs) {
		klog.FromContext(ctx).Info("A sysctl cannot be set", "err", warning)
	}
	mtu := n.mtu()
	if err := ensureBridge(n.cfg.Bridge, mtu, cidrs); err != nil {
		return fmt.Errorf("set up bridge %s: %w", n.cfg.Bridge, err)
	}
	if err := routeServices(n.cfg.Bridge, n.cfg.ServiceCIDRs, cidrs); err != nil {
		return fmt.Errorf("route Services: %w", err)
	}
	for _, warning := range setBridgeSysctls(n.cfg.Bridge) {
		klog.FromContext(ctx).Info("A sysctl cannot be set", "err", warning)
	}
	if err := n.rules.set(ctx, cidrs, n.attachments.withPorts()); err != nil {
		return err
	}
	n.attachments.setCIDRs(cidrs)
	n.mu.Lock()
	n.ready = cidrs
	n.mu.Unlock()
	if err := writeConflist(n.cfg); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if n.cfg.OnReady != nil {
		gateways := make([]netip.Addr, len(cidrs))
		for i, cidr := range cidrs {
			gateways[i] = gateway(cidr)
		}
		n.cfg.OnReady(gateways)
	}
	klog.FromContext(ctx).Info("Pod network is ready", "podCIDRs", cidrs, "bridge", n.cfg.Bridge, "mtu", mtu)
	return nil
}

// mtu is the MTU of pods, and of the way to other nodes.
func (n *Network) mtu() int {
	if n.cfg.MTU != 0 {
		return n.cfg.MTU
	}
	return uplinkMTU(n.cfg.Bridge, n.tunnelName()) - n.cfg.overhead()
}

func (n *Network) current() []netip.Prefix {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ready
}

// Cleanup removes all that a Network leaves on the node: for uninstall, with no pod running. It may be called
// without Run, and again.
func (n *Network) Cleanup(ctx context.Context) error {
	var errs []error
	for _, path := range []string{filepath.Join(n.cfg.ConfDir, conflistName), n.cfg.Socket} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	errs = append(errs,
		n.disconnect(),
		removeBridge(n.cfg.Bridge),
		n.rules.cleanup(ctx),
		os.RemoveAll(filepath.Join(n.cfg.DataDir, "network")))
	return errors.Join(errs...)
}

// writeConflist makes the runtime's NetworkReady true. It declares CNI 1.0.0 although the plugin speaks
// 1.1.0: with 1.1.0 a runtime executes STATUS each time it is asked for its own.
func writeConflist(cfg Config) error {
	text := fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": "skiff",
  "plugins": [
    {
      "type": %q,
      "socket": %q,
      "capabilities": {"portMappings": true, "bandwidth": true}
    }
  ]
}
`, cfg.PluginType, cfg.Socket)
	path := filepath.Join(cfg.ConfDir, conflistName)
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return nil
	}
	if err := os.MkdirAll(cfg.ConfDir, 0o755); err != nil {
		return err
	}
	// The runtime watches the directory and reads it again when a file there is written or renamed, but not
	// when one appears; and it complains when there is no configuration. So the file is written elsewhere,
	// appears under a name that is none of a configuration, and then gets its own.
	temporary := "." + conflistName + ".tmp"
	written, appeared := filepath.Join(filepath.Dir(cfg.ConfDir), temporary), filepath.Join(cfg.ConfDir, temporary)
	if err := os.WriteFile(written, []byte(text), 0o644); err != nil {
		return err
	}
	err := os.Rename(written, appeared)
	if errors.Is(err, syscall.EXDEV) {
		err = errors.Join(os.WriteFile(appeared, []byte(text), 0o644), os.Remove(written))
	}
	if err != nil {
		return err
	}
	return os.Rename(appeared, path)
}

// writeFile replaces a file at once. It does not sync: after a crash of the machine nothing of what our
// files describe exists any more.
func writeFile(path string, data []byte, mode os.FileMode) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

var families = []iptables.Family{iptables.IPv4, iptables.IPv6}

// familyOf returns the IP family of an address.
func familyOf(addr netip.Addr) iptables.Family {
	if addr.Is4() {
		return iptables.IPv4
	}
	return iptables.IPv6
}
