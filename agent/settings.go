// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"strings"
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
	MaxPods         int64  // 110
	PodManifests    string // a folder of static pods, or the file of one; none if empty
}

// Values of Settings.Network.
const (
	NetworkSkiff  = "skiff"   // the pod network of package network, with VXLAN between nodes
	NetworkHostGW = "host-gw" // the same, but nodes are gateways to each other's pods
	NetworkNone   = "none"    // a CNI plugin that the user brings
)

// ownNetwork tells whether pods are on the network of package network.
func (s *Settings) ownNetwork() bool { return s.Network != NetworkNone }

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
		MaxPods:       110,
	}
}

// Check refuses what cannot work, with a line that says what to change.
func (s *Settings) Check() error {
	if all := []string{NetworkSkiff, NetworkHostGW, NetworkNone}; !slices.Contains(all, s.Network) {
		return fmt.Errorf("network %q is unknown (--network is one of %s)", s.Network, strings.Join(all, ", "))
	}
	if s.KubeletPort < 1 || s.KubeletPort > 65535 {
		return fmt.Errorf("port %d is not between 1 and 65535 (change --kubelet-port)", s.KubeletPort)
	}
	return nil
}
