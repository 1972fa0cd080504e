// SPDX-License-Identifier: Apache-2.0

// Package podnet makes a pod's names: its DNS settings, hostname and /etc/hosts. It is pure but for reading the
// node's own resolv.conf and hosts file.
package podnet

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The limits of resolv.conf that Kubernetes keeps to.
const (
	MaxNameservers   = 3
	MaxSearches      = 32
	MaxSearchLetters = 2048
)

// DNS knows the cluster's DNS settings.
type DNS struct {
	ClusterIPs []string // of the cluster's DNS Service
	Domain     string   // cluster.local
	ResolvConf string   // the file with the node's own settings; empty for none
}

// Config is the pod's resolv.conf. Warnings tell what did not fit into it.
func (d *DNS) Config(pod *v1.Pod) (config *runtimeapi.DNSConfig, warnings []string, err error) {
	host, err := d.host()
	if err != nil {
		return nil, nil, err
	}
	switch policyOf(pod, len(d.ClusterIPs) > 0) {
	case v1.DNSNone:
		config = &runtimeapi.DNSConfig{}
	case v1.DNSClusterFirst:
		config = &runtimeapi.DNSConfig{
			Servers:  slices.Clone(d.ClusterIPs),
			Searches: unique(d.searches(pod), host.GetSearches()),
			Options:  []string{"ndots:5"},
		}
	default:
		config = host
		if len(config.GetServers()) == 0 && pod.Spec.DNSPolicy != v1.DNSNone {
			config.Servers = nil
		}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		config.Servers = unique(config.GetServers(), own.Nameservers)
		config.Searches = unique(config.GetSearches(), own.Searches)
		config.Options = options(config.GetOptions(), own.Options)
	}
	return config, limit(config), nil
}

// policyOf is the pod's policy as far as it can be kept: pods on the node's network use the node's DNS.
func policyOf(pod *v1.Pod, cluster bool) v1.DNSPolicy {
	switch pod.Spec.DNSPolicy {
	case v1.DNSNone:
		return v1.DNSNone
	case v1.DNSClusterFirstWithHostNet:
		if cluster {
			return v1.DNSClusterFirst
		}
	case v1.DNSClusterFirst, "":
		if cluster && !pod.Spec.HostNetwork {
			return v1.DNSClusterFirst
		}
	}
	return v1.DNSDefault
}

func (d *DNS) searches(pod *v1.Pod) []string {
	if d.Domain == "" {
		return nil
	}
	return []string{pod.Namespace + ".svc." + d.Domain, "svc." + d.Domain, d.Domain}
}

// host reads the node's settings.
func (d *DNS) host() (*runtimeapi.DNSConfig, error) {
	config := &runtimeapi.DNSConfig{}
	if d.ResolvConf == "" {
		return config, nil
	}
	data, err := os.ReadFile(d.ResolvConf)
	if err != nil {
		return nil, fmt.Errorf("read the node's DNS settings: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			config.Servers = append(config.Servers, fields[1])
		case "search":
			config.Searches = nil
			for _, s := range fields[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				config.Searches = append(config.Searches, s)
			}
		case "options":
			config.Options = append(config.Options, fields[1:]...)
		}
	}
	return config, lines.Err()
}

func limit(c *runtimeapi.DNSConfig) (warnings []string) {
	if len(c.GetServers()) > MaxNameservers {
		c.Servers = c.Servers[:MaxNameservers]
		warnings = append(warnings, "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: "+strings.Join(c.Servers, " "))
	}
	searches := c.GetSearches()
	if len(searches) > MaxSearches {
		searches = searches[:MaxSearches]
	}
	for len(strings.Join(searches, " ")) > MaxSearchLetters {
		searches = searches[:len(searches)-1]
	}
	if len(searches) < len(c.GetSearches()) {
		c.Searches = searches
		warnings = append(warnings, "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: "+strings.Join(searches, " "))
	}
	return warnings
}

func unique(lists ...[]string) []string {
	var out []string
	for _, list := range lists {
		for _, s := range list {
			if !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// options merges the pod's resolver options into others; its own win.
func options(base []string, own []v1.PodDNSConfigOption) []string {
	merged := map[string]string{}
	var order []string
	set := func(name, text string) {
		if _, known := merged[name]; !known {
			order = append(order, name)
		}
		merged[name] = text
	}
	for _, o := range base {
		name, _, _ := strings.Cut(o, ":")
		set(name, o)
	}
	for _, o := range own {
		text := o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		set(o.Name, text)
	}
	var out []string
	for _, name := range order {
		out = append(out, merged[name])
	}
	return out
}

// maxLabel is the longest hostname that DNS takes.
const maxLabel = 63

// Hostname returns the pod's hostname and, if it has a subdomain, the DNS domain below which it is found.
func Hostname(pod *v1.Pod, clusterDomain string) (name, domain string) {
	if override := pod.Spec.HostnameOverride; override != nil {
		return *override, ""
	}
	name = pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	if len(name) > maxLabel {
		name = strings.TrimRight(name[:maxLabel], "-.")
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, clusterDomain)
	}
	return name, domain
}

// HostsFile is the /etc/hosts of a pod. On the node's network it is the node's own, given as host.
func HostsFile(pod *v1.Pod, ips []string, name, domain string, host []byte) []byte {
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(host)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, name, domain, name)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, name)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.Bytes()
}
