// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const maxHostname = 63

// Hostname returns the hostname of pod, and the domain it has with a subdomain.
func Hostname(pod *corev1.Pod, clusterDomain string) (name, domain string) {
	name = pod.Name
	if pod.Spec.HostnameOverride != nil {
		return truncated(*pod.Spec.HostnameOverride), ""
	}
	if pod.Spec.Hostname != "" {
		name = pod.Spec.Hostname
	}
	if pod.Spec.Subdomain != "" {
		domain = pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + clusterDomain
	}
	return truncated(name), domain
}

// truncated makes a hostname fit into the kernel's 64 bytes.
func truncated(name string) string {
	if len(name) <= maxHostname {
		return name
	}
	return strings.TrimRight(name[:maxHostname], "-.")
}

// hostsMount writes the pod's hosts file.
func (m *Manager) hostsMount(pod *corev1.Pod, podIPs []string) (*runtimeapi.Mount, error) {
	var content bytes.Buffer
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile(etcHosts)
		if err != nil {
			return nil, err
		}
		content.WriteString("# Kubernetes-managed hosts file (host network).\n")
		content.Write(node)
	} else {
		name, domain := Hostname(pod, m.cfg.ClusterDomain)
		if domain != "" {
			name = name + "." + domain + "\t" + name
		}
		content.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range podIPs {
			fmt.Fprintf(&content, "%s\t%s\n", ip, name)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		content.WriteString("\n# Entries added by HostAliases.\n")
	}
	for _, alias := range pod.Spec.HostAliases {
		fmt.Fprintf(&content, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	path := filepath.Join(m.PodDir(pod.UID), "etc-hosts")
	if err := os.WriteFile(path, content.Bytes(), 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o644); err != nil { // past the umask
		return nil, err
	}
	return &runtimeapi.Mount{ContainerPath: etcHosts, HostPath: path}, nil
}
