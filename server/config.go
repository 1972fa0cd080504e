// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/controllers/servicelb"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/scheduler"
)

// Config is everything a person can say about a server. Default fills in the rest.
type Config struct {
	DataDir  string // what must survive: database, keys, images; /var/lib/skiff
	StateDir string // what ends with the machine's uptime: sockets, mounts; /run/skiff

	NodeName   string   // name of this machine's Node; the host name
	NodeIP     net.IP   // address by which other nodes reach this one; that of the default route
	TLSSANs    []string // more names and addresses in the API server's certificate
	SecurePort int      // of the API, 6443

	ClusterCIDR   netip.Prefix // of pods, 10.42.0.0/16
	ServiceCIDR   netip.Prefix // of Services, 10.43.0.0/16
	ClusterDNS    netip.Addr   // address of the DNS Service, the tenth of ServiceCIDR
	ClusterDomain string       // cluster.local
	NodePorts     PortRange    // 30000-32767
	LoadBalancer  string       // LoadBalancerNodes or LoadBalancerNone

	Kubeconfig     string      // written for the administrator; /etc/skiff/skiff.yaml
	KubeconfigMode os.FileMode // 0600

	NoNode bool // control plane only

	LeaderElect bool     // other servers work on the same data: by Leases they agree whose controllers and scheduler act
	Disable     []string // what is not wanted: add-ons in DataDir/server/manifests, by name, local-path, ingress and gateway

	API     APISettings
	Node    agent.Settings
	Gateway GatewaySettings

	// Scheduler says how pods get their nodes; the zero value is what kube-scheduler does without a configuration.
	Scheduler scheduler.Config `json:"-"`

	// Simulated nodes exist besides this machine's, in the API only; none if Nodes is 0.
	Simulated simulated.Config `json:"-"`

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
		ClusterCIDR:    netip.MustParsePrefix("10.42.0.0/16"),
		ServiceCIDR:    netip.MustParsePrefix("10.43.0.0/16"),
		ClusterDomain:  "cluster.local",
		NodePorts:      PortRange{30000, 32767},
		LoadBalancer:   LoadBalancerNodes,
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
	if !c.ClusterCIDR.IsValid() || !c.ServiceCIDR.IsValid() {
		return fmt.Errorf("cluster and service CIDR must be set (--cluster-cidr, --service-cidr)")
	}
	if c.ClusterCIDR.Overlaps(c.ServiceCIDR) {
		return fmt.Errorf("cluster CIDR %s and service CIDR %s overlap (change --cluster-cidr or --service-cidr)", c.ClusterCIDR, c.ServiceCIDR)
	}
	if !c.ClusterDNS.IsValid() {
		c.ClusterDNS = nth(c.ServiceCIDR, 10)
	}
	if !c.ServiceCIDR.Contains(c.ClusterDNS) {
		return fmt.Errorf("cluster DNS address %s is not in the service CIDR %s (change --cluster-dns)", c.ClusterDNS, c.ServiceCIDR)
	}
	if c.SecurePort < 1 || c.SecurePort > 65535 {
		return fmt.Errorf("port %d is not between 1 and 65535 (change --secure-port)", c.SecurePort)
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

// serviceLB returns what makes the addresses of LoadBalancer Services, or nil. inUse tells of ports that are taken for now.
func (c *Config) serviceLB(inUse func(port int32) string) *servicelb.Config {
	if c.LoadBalancer != LoadBalancerNodes {
		return nil
	}
	needed := map[int]string{22: "SSH", c.SecurePort: "the API server", c.Node.KubeletPort: "the kubelet"}
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
func (c *Config) apiServiceIP() netip.Addr { return nth(c.ServiceCIDR, 1) }

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
