// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/netip"
	"reflect"
)

// clusterSettings are what all servers of a cluster have to agree on.
type clusterSettings struct {
	ClusterCIDRs, ServiceCIDRs []netip.Prefix
	ClusterDNS                 netip.Addr
	ClusterDomain              string
	NodePorts                  PortRange
	LoadBalancer               string
	LoadBalancerPool           []string
	Network                    string
	SecurePort, PeerPort       int
	Disable                    []string
	Issuers, Audiences         []string
}

func (c *Config) clusterSettings() clusterSettings {
	return clusterSettings{
		ClusterCIDRs: c.ClusterCIDRs, ServiceCIDRs: c.ServiceCIDRs, ClusterDNS: c.ClusterDNS, ClusterDomain: c.ClusterDomain,
		NodePorts: c.NodePorts, LoadBalancer: c.LoadBalancer, LoadBalancerPool: c.LoadBalancerPool, Network: c.Node.Network,
		SecurePort: c.SecurePort, PeerPort: c.PeerPort, Disable: c.Disable, Issuers: c.API.Issuers, Audiences: c.API.Audiences,
	}
}

// adopt takes over the settings of the cluster, where a person has not said anything. What was said differently is
// refused if strict, and stays otherwise.
func (c *Config) adopt(s clusterSettings, strict bool) error {
	for _, setting := range []struct {
		flag         string
		mine, theirs any // of one type, mine is a pointer
	}{
		{"cluster-cidr", &c.ClusterCIDRs, s.ClusterCIDRs},
		{"service-cidr", &c.ServiceCIDRs, s.ServiceCIDRs},
		{"cluster-dns", &c.ClusterDNS, s.ClusterDNS},
		{"cluster-domain", &c.ClusterDomain, s.ClusterDomain},
		{"service-node-port-range", &c.NodePorts, s.NodePorts},
		{"load-balancer", &c.LoadBalancer, s.LoadBalancer},
		{"load-balancer-pool", &c.LoadBalancerPool, s.LoadBalancerPool},
		{"network", &c.Node.Network, s.Network},
		{"secure-port", &c.SecurePort, s.SecurePort},
		{"peer-port", &c.PeerPort, s.PeerPort},
		{"disable", &c.Disable, s.Disable},
		{"service-account-issuer", &c.API.Issuers, s.Issuers},
		{"api-audiences", &c.API.Audiences, s.Audiences},
	} {
		mine, theirs := reflect.ValueOf(setting.mine).Elem(), reflect.ValueOf(setting.theirs)
		switch {
		case c.Said == nil || !c.Said(setting.flag):
			mine.Set(theirs)
		case strict && !reflect.DeepEqual(mine.Interface(), setting.theirs):
			return fmt.Errorf("--%s is %v here and %v in the cluster (leave it out, or say the same)", setting.flag, mine.Interface(), setting.theirs)
		}
	}
	return nil
}
