// SPDX-License-Identifier: Apache-2.0

package podnet

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestDNS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 192.0.2.53\nsearch example.org. lan\noptions ndots:2 # a comment\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := DNS{ClusterIPs: []string{"10.43.0.10"}, Domain: "cluster.local", ResolvConf: file}
	ndots := "3"
	own := &v1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: []string{"mine"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: &ndots}}}
	for name, c := range map[string]struct {
		spec                       v1.PodSpec
		servers, searches, options string
	}{
		"cluster":                 {v1.PodSpec{DNSPolicy: v1.DNSClusterFirst}, "10.43.0.10", "ns.svc.cluster.local svc.cluster.local cluster.local example.org lan", "ndots:5"},
		"cluster on host network": {v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true}, "192.0.2.53", "example.org lan", "ndots:2"},
		"cluster with host net":   {v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true}, "10.43.0.10", "ns.svc.cluster.local svc.cluster.local cluster.local example.org lan", "ndots:5"},
		"default":                 {v1.PodSpec{DNSPolicy: v1.DNSDefault}, "192.0.2.53", "example.org lan", "ndots:2"},
		"none":                    {v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: own}, "192.0.2.1", "mine", "ndots:3"},
		"cluster and own":         {v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, DNSConfig: own}, "10.43.0.10 192.0.2.1", "ns.svc.cluster.local svc.cluster.local cluster.local example.org lan mine", "ndots:3"},
	} {
		pod := &v1.Pod{Spec: c.spec}
		pod.Namespace = "ns"
		got, warnings, err := d.Config(pod)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("%s: %v %v", name, warnings, err)
		}
		if s := strings.Join(got.Servers, " "); s != c.servers {
			t.Errorf("%s: servers %q, want %q", name, s, c.servers)
		}
		if s := strings.Join(got.Searches, " "); s != c.searches {
			t.Errorf("%s: searches %q, want %q", name, s, c.searches)
		}
		if s := strings.Join(got.Options, " "); s != c.options {
			t.Errorf("%s: options %q, want %q", name, s, c.options)
		}
	}
}

func TestHostname(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Subdomain: "sub"}}
	pod.Name, pod.Namespace = strings.Repeat("a", 62)+".b", "ns"
	name, domain := Hostname(pod, "cluster.local")
	if name != strings.Repeat("a", 62) || domain != "sub.ns.svc.cluster.local" {
		t.Errorf("Hostname = %q, %q", name, domain)
	}
	pod.Spec.HostAliases = []v1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"x", "y"}}}
	lines := strings.Split(string(HostsFile(pod, []string{"10.42.0.2"}, "web", domain, nil)), "\n")
	for _, want := range []string{"# Kubernetes-managed hosts file.", "127.0.0.1\tlocalhost", "10.42.0.2\tweb.sub.ns.svc.cluster.local\tweb", "192.0.2.9\tx\ty"} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in %q", want, lines)
		}
	}
}
