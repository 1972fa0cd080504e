// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/controllers/podgc"
	"github.com/skiff-k8s/skiff/controllers/servicelb"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/network/addresspool"
	"github.com/skiff-k8s/skiff/scheduler"
)

// Config is everything a person can say about a server. Default fills in the rest.
type Config struct {
	DataDir  string // what must survive: database, keys, images; /var/lib/skiff
	StateDir string // what ends with the machine's uptime: sockets, mounts; /run/skiff

	NodeName   string   // name of this machine's Node; the host name
	NodeIP     net.IP   // address by which other nodes reach this one; that of the default route
	NodeIP2    net.IP   // the one of the other family, if it has any
	TLSSANs    []string // more names and addresses in the API server's certificate
	SecurePort int      // of the API, 6443
	PeerPort   int      // of the database, for other servers; nothing listens there while there are none; 2380

	Server string `json:"-"` // https://host:port of a server of the cluster to become a server of; needed once
	Token  string `json:"-"` // of skiff token create --server; needed once

	ClusterCIDRs  []netip.Prefix // of pods, one or one of each family; 10.42.0.0/16
	ServiceCIDRs  []netip.Prefix // of Services, likewise; 10.43.0.0/16
	ClusterDNS    netip.Addr     // address of the DNS Service, the tenth of the first of ServiceCIDRs
	ClusterDomain string         // cluster.local
	NodePorts     PortRange      // 30000-32767
	LoadBalancer  string         // LoadBalancerNodes or LoadBalancerNone

	LoadBalancerPool []string // ranges of addresses for LoadBalancer Services, instead of those of the nodes
	KeepEndedPods    int      // how many pods that have ended the cluster keeps; 0: all

	Kubeconfig     string      // written for the administrator; /etc/skiff/skiff.yaml
	KubeconfigMode os.FileMode // 0600

	NoNode bool // control plane only

	Disable []string // what is not wanted: add-ons in DataDir/server/manifests, by name, local-path, ingress and gateway

	API     APISettings
	Node    agent.Settings
	Gateway GatewaySettings

	// Scheduler says how pods get their nodes; the zero value is what kube-scheduler does without a configuration.
	Scheduler scheduler.Config `json:"-"`

	// Simulated nodes exist besides this machine's, in the API only; none if Nodes is 0.
	Simulated simulated.Config `json:"-"`

	// Said tells whether a person has set a flag. What was not said, a server takes over from the servers that it joins.
	Said func(flag string) bool `json:"-"`

	// Progress is told each step of the start, and how long it took from Started. Optional.
	Progress func(step Step, after time.Duration) `json:"-"`
	// Started is when the start began, as a person sees it; when New was called if zero.
	Started time.Time `json:"-"`
}

// Step is something that a person who starts a server waits for.
type Step string

// The steps. Runtime and Node come with a node only.
const (
	StepData    Step = "data"    // keys and database are open
	StepAPI     Step = "api"     // the API serves, and has what every cluster has
	StepRuntime Step = "runtime" // containers can be started
	StepNode    Step = "node"    // the Node is Ready
	StepWaiting Step = "waiting" // for other servers, comes only if there is no majority
)

// Where Services of type LoadBalancer have their addresses from.
const (
	LoadBalancerNodes = "nodes" // they are the nodes'
	LoadBalancerNone  = "none"  // from a controller that the user brings
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last int }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// Default returns the configuration of a machine where nothing was said.
func Default() Config {
	return Config{
		DataDir:        "/var/lib/skiff",
		StateDir:       "/run/skiff",
		SecurePort:     6443,
		PeerPort:       2380,
		ClusterCIDRs:   []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDRs:   []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		ClusterDomain:  "cluster.local",
		NodePorts:      PortRange{30000, 32767},
		LoadBalancer:   LoadBalancerNodes,
		KeepEndedPods:  podgc.DefaultThreshold,
		Kubeconfig:     "/etc/skiff/skiff.yaml",
		KubeconfigMode: 0o600,
		API:            defaultAPISettings(),
		Node:           agent.DefaultSettings(),
		Gateway:        defaultGatewaySettings(),
	}
}

// Complete finds out what was left open and refuses what cannot work. Each error says what to do.
func (c *Config) Complete() error {
	if err := agent.Identify(&c.NodeName, &c.NodeIP); err != nil {
		return err
	}
	if err := agent.CheckFamilies(c.NodeIP, c.NodeIP2); err != nil {
		return err
	}
	if err := c.checkRanges(); err != nil {
		return err
	}
	if !c.ClusterDNS.IsValid() {
		c.ClusterDNS = nth(c.ServiceCIDRs[0], 10)
	}
	if !c.ServiceCIDRs[0].Contains(c.ClusterDNS) {
		return fmt.Errorf("cluster DNS address %s is not in the service CIDR %s (change --cluster-dns)", c.ClusterDNS, c.ServiceCIDRs[0])
	}
	if err := c.checkPool(); err != nil {
		return err
	}
	if c.SecurePort < 1 || c.SecurePort > 65535 {
		return fmt.Errorf("port %d is not between 1 and 65535 (change --secure-port)", c.SecurePort)
	}
	if c.PeerPort < 1 || c.PeerPort > 65535 || c.PeerPort == c.SecurePort {
		return fmt.Errorf("port %d is not between 1 and 65535, or is that of the API (change --peer-port)", c.PeerPort)
	}
	if c.NodePorts.First < 1 || c.NodePorts.Last > 65535 || c.NodePorts.First > c.NodePorts.Last {
		return fmt.Errorf("node port range %s is not a range of ports (change --service-node-port-range)", c.NodePorts)
	}
	if err := c.API.check(); err != nil {
		return err
	}
	if err := c.Gateway.check(); err != nil {
		return err
	}
	if c.Simulated.Nodes < 0 || c.Simulated.StartAfter < 0 {
		return fmt.Errorf("there cannot be %d simulated nodes whose pods start after %v (change --simulated-nodes or --simulated-pod-start)", c.Simulated.Nodes, c.Simulated.StartAfter)
	}
	if c.LoadBalancer != LoadBalancerNodes && c.LoadBalancer != LoadBalancerNone {
		return fmt.Errorf("load balancer %q is unknown (--load-balancer is %s or %s)", c.LoadBalancer, LoadBalancerNodes, LoadBalancerNone)
	}
	return c.Node.Check()
}

// checkRanges refuses ranges of pods and Services that cannot be.
func (c *Config) checkRanges() error {
	for flag, ranges := range map[string][]netip.Prefix{"--cluster-cidr": c.ClusterCIDRs, "--service-cidr": c.ServiceCIDRs} {
		if n := len(ranges); n < 1 || n > 2 || n == 2 && ranges[0].Addr().Is4() == ranges[1].Addr().Is4() {
			return fmt.Errorf("%s must be one range, or one of each family: not %v", flag, ranges)
		}
	}
	for _, pods := range c.ClusterCIDRs {
		for _, services := range c.ServiceCIDRs {
			if pods.Overlaps(services) {
				return fmt.Errorf("cluster CIDR %s and service CIDR %s overlap (change --cluster-cidr or --service-cidr)", pods, services)
			}
		}
	}
	if c.ClusterCIDRs[0].Addr().Is4() != c.ServiceCIDRs[0].Addr().Is4() || len(c.ClusterCIDRs) != len(c.ServiceCIDRs) {
		return fmt.Errorf("cluster CIDRs %v and service CIDRs %v must be of the same families, in the same order (change --cluster-cidr or --service-cidr)", c.ClusterCIDRs, c.ServiceCIDRs)
	}
	return nil
}

// checkPool refuses addresses for LoadBalancer Services that belong to something else.
func (c *Config) checkPool() error {
	pool, err := addresspool.Parse(c.LoadBalancerPool)
	if err != nil {
		return fmt.Errorf("read the pool of load balancer addresses: %w (change --load-balancer-pool)", err)
	}
	if len(pool) > 0 && c.LoadBalancer == LoadBalancerNone {
		return fmt.Errorf("a pool of load balancer addresses is of no use with --load-balancer=%s", LoadBalancerNone)
	}
	for _, other := range slices.Concat(c.ClusterCIDRs, c.ServiceCIDRs) {
		if pool.Overlaps(other) {
			return fmt.Errorf("the pool of load balancer addresses overlaps %s, the range of pods or Services (change --load-balancer-pool)", other)
		}
	}
	for _, ip := range []net.IP{c.NodeIP, c.NodeIP2} {
		if addr, ok := netip.AddrFromSlice(ip); ok && pool.Contains(addr.Unmap()) {
			return fmt.Errorf("the pool of load balancer addresses contains this node's own, %s (change --load-balancer-pool)", ip)
		}
	}
	return nil
}

// pool is the pool of load balancer addresses; Complete has found it to be right.
func (c *Config) pool() addresspool.Pool {
	pool, _ := addresspool.Parse(c.LoadBalancerPool)
	return pool
}

// serviceLB returns what makes the addresses of LoadBalancer Services, or nil. inUse tells of ports that are taken for now.
func (c *Config) serviceLB(inUse func(port int32) string) *servicelb.Config {
	if c.LoadBalancer != LoadBalancerNodes || len(c.LoadBalancerPool) > 0 {
		return nil
	}
	needed := map[int]string{22: "SSH", c.SecurePort: "the API server", c.PeerPort: "other servers", c.Node.KubeletPort: "the kubelet"}
	return &servicelb.Config{Reserved: func(port int32) string {
		if n := int(port); n >= c.NodePorts.First && n <= c.NodePorts.Last {
			return "node ports"
		}
		return cmp.Or(needed[int(port)], inUse(port))
	}}
}

// progress tells the person who waits.
func (c *Config) progress(step Step) {
	if c.Progress != nil {
		c.Progress(step, time.Since(c.Started))
	}
}

// apiServiceIP is the ClusterIP of the kubernetes Service.
func (c *Config) apiServiceIP() netip.Addr { return nth(c.ServiceCIDRs[0], 1) }

// nodeIPs are this machine's addresses, the one that other nodes use first.
func (c *Config) nodeIPs() []net.IP {
	if c.NodeIP2 == nil {
		return []net.IP{c.NodeIP}
	}
	return []net.IP{c.NodeIP, c.NodeIP2}
}

func (c *Config) tlsDir() string { return filepath.Join(c.DataDir, "server", "tls") }
func (c *Config) dbDir() string  { return filepath.Join(c.DataDir, "server", "db") }

// manifestsDir is where the add-ons are.
func (c *Config) manifestsDir() string { return filepath.Join(c.DataDir, "server", "manifests") }

// nth is the n-th address after the first of prefix.
func nth(prefix netip.Prefix, n int) netip.Addr {
	addr := prefix.Masked().Addr()
	for range n {
		addr = addr.Next()
	}
	return addr
}
