// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/skiff-k8s/skiff/proxy"
)

// Settings is what a person can say about a machine as a node.
type Settings struct {
	RuntimeEndpoint string // another CRI runtime's socket; the containerd in this process if empty
	KubeletRoot     string // /var/lib/kubelet
	KubeletPort     int    // 10250
	PodLogs         string // /var/log/pods
	ContainerLogs   string // /var/log/containers, links to PodLogs by container
	CNIConfDir      string // /etc/cni/net.d
	CNIBinDir       string // /opt/cni/bin
	CgroupRoot      string // the cgroup below which pods run; /
	Network         string // NetworkSkiff, NetworkHostGW or NetworkNone
	ResolvConf      string // name servers of this machine; /etc/resolv.conf
	ProxyHealth     string // address of the proxy's health endpoint; 0.0.0.0:10256
	ProxyMetrics    string // address of the proxy's metrics; 127.0.0.1:10249
	MaxPods         int64  // 110
	Registries      string // how images are pulled; /etc/skiff/registries.yaml, which need not be there
	CredentialFile  string // a CredentialProviderConfig; none if empty
	CredentialDir   string // where its programs lie
	KubeletConfig   string // a KubeletConfiguration; none if empty

	ProxyMode         string   // proxy.IPTables or proxy.NFTables
	MasqueradeAll     bool     // pods see this node behind a cluster IP, not the client
	ExternalIPs       bool     // spec.externalIPs of Services work
	NodePortAddresses []string // ranges of this node's addresses that take node ports, or NodePortsPrimary; all if empty (primary with nftables, as upstream)

	PodManifests string // a folder of static pods, or the file of one; none if empty

	NodeLabels map[string]string // of the Node, besides those that say what the machine is

	Flags map[string]string // that the process was started with, for people who look for a fault
}

// Values of Settings.Network.
const (
	NetworkSkiff  = "skiff"   // the pod network of package network, with VXLAN between nodes
	NetworkHostGW = "host-gw" // the same, but nodes are gateways to each other's pods
	NetworkNone   = "none"    // a CNI plugin that the user brings
)

// ownNetwork tells whether pods are on the network of package network.
func (s *Settings) ownNetwork() bool { return s.Network != NetworkNone }

// NodePortsPrimary stands for the node's own address, of each family, in Settings.NodePortAddresses.
const NodePortsPrimary = "primary"

// DefaultSettings are those of a machine where nothing was said.
func DefaultSettings() Settings {
	return Settings{
		KubeletRoot:   "/var/lib/kubelet",
		KubeletPort:   10250,
		PodLogs:       "/var/log/pods",
		ContainerLogs: "/var/log/containers",
		CNIConfDir:    "/etc/cni/net.d",
		CNIBinDir:     "/opt/cni/bin",
		CgroupRoot:    "/",
		Network:       NetworkSkiff,
		ResolvConf:    "/etc/resolv.conf",
		ProxyHealth:   "0.0.0.0:10256",
		ProxyMetrics:  "127.0.0.1:10249",
		ProxyMode:     string(proxy.IPTables),
		MaxPods:       110,
		Registries:    "/etc/skiff/registries.yaml",
	}
}

// Check refuses what cannot work, with a line that says what to change.
func (s *Settings) Check() error {
	if all := []string{NetworkSkiff, NetworkHostGW, NetworkNone}; !slices.Contains(all, s.Network) {
		return fmt.Errorf("network %q is unknown (--network is one of %s)", s.Network, strings.Join(all, ", "))
	}
	if err := checkLabels(s.NodeLabels); err != nil {
		return err
	}
	if s.KubeletPort < 1 || s.KubeletPort > 65535 {
		return fmt.Errorf("port %d is not between 1 and 65535 (change --kubelet-port)", s.KubeletPort)
	}
	if mode := proxy.Mode(s.ProxyMode); mode != proxy.IPTables && mode != proxy.NFTables {
		return fmt.Errorf("proxy mode %q is unknown (--proxy-mode is %s or %s)", s.ProxyMode, proxy.IPTables, proxy.NFTables)
	}
	if len(s.NodePortAddresses) == 1 && s.NodePortAddresses[0] == NodePortsPrimary {
		return nil
	}
	for _, text := range s.NodePortAddresses {
		if _, err := netip.ParsePrefix(text); err != nil {
			return fmt.Errorf("node port address %q is not a range like 192.0.2.0/24 (change --nodeport-addresses)", text)
		}
	}
	return nil
}

// checkLabels refuses what no node may say of itself.
func checkLabels(labels map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if errs := slices.Concat(content.IsLabelKey(name), content.IsLabelValue(labels[name])); len(errs) > 0 {
			return fmt.Errorf("label %s=%s: %s (change --node-labels)", name, labels[name], strings.Join(errs, "; "))
		}
		namespace, _, found := strings.Cut(name, "/")
		of := func(domain string) bool { return namespace == domain || strings.HasSuffix(namespace, "."+domain) }
		if found && (of("kubernetes.io") || of("k8s.io")) && !kubeletapis.IsKubeletLabel(name) {
			return fmt.Errorf("label %s is not a node's to choose: of the names of Kubernetes it may have those that begin with %s or are one of %s (change --node-labels)",
				name, strings.Join(kubeletapis.KubeletLabelNamespaces(), ", "), strings.Join(kubeletapis.KubeletLabels(), ", "))
		}
	}
	return nil
}

// nodePortAddresses returns the ranges; Check has found them to be right.
func (s *Settings) nodePortAddresses(node []string) []netip.Prefix {
	texts := s.NodePortAddresses
	if len(texts) == 0 && proxy.Mode(s.ProxyMode) == proxy.NFTables {
		texts = []string{NodePortsPrimary}
	}
	var ranges []netip.Prefix
	for _, text := range texts {
		if text == NodePortsPrimary {
			for _, address := range node {
				if addr, err := netip.ParseAddr(address); err == nil {
					ranges = append(ranges, netip.PrefixFrom(addr, addr.BitLen()))
				}
			}
		} else if prefix, err := netip.ParsePrefix(text); err == nil {
			ranges = append(ranges, prefix)
		}
	}
	return ranges
}
