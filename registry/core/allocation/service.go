// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// What a Service needs depends on its type.

func needsClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// mayHaveNodePorts is true for types whose node ports, if they name any, are allocated.
func mayHaveNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// needsNodePorts is true if each port gets a node port.
func needsNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
}

func needsHealthCheck(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func nodePorts(s *corev1.Service) []int32 {
	var out []int32
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, p.NodePort)
		}
	}
	return out
}

func policyOf(s *corev1.Service) corev1.IPFamilyPolicy { return ptr.Deref(s.Spec.IPFamilyPolicy, "") }

func otherFamily(family corev1.IPFamily) corev1.IPFamily {
	if family == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// addressesOf are the cluster IPs of a Service that has some.
func addressesOf(s *corev1.Service) []netip.Addr {
	if !needsClusterIP(s) {
		return nil
	}
	var out []netip.Addr
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil { // "None" is no address
			out = append(out, ip.Unmap())
		}
	}
	return out
}

// keepAllocated keeps what old has been given where s, replaced by someone who does not know, says nothing.
func keepAllocated(s, old *corev1.Service) {
	is, was := &s.Spec, &old.Spec
	if needsClusterIP(s) && needsClusterIP(old) {
		if is.ClusterIP == "" {
			is.ClusterIP = was.ClusterIP
		}
		if len(is.ClusterIPs) == 0 {
			is.ClusterIPs = was.ClusterIPs
		}
	}
	if needsNodePorts(s) && needsNodePorts(old) {
		still := nodePorts(s)
		byName := map[string]int32{}
		for _, p := range was.Ports {
			byName[p.Name] = p.NodePort
		}
		for i := range is.Ports {
			p := &is.Ports[i]
			if before := byName[p.Name]; p.NodePort == 0 && !slices.Contains(still, before) {
				p.NodePort = before
			}
		}
	}
	if needsHealthCheck(s) && needsHealthCheck(old) && is.HealthCheckNodePort == 0 {
		is.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// normalizeClusterIPs lets clients that know clusterIP alone change it: clusterIPs follows if it is still
// as it was.
func normalizeClusterIPs(s, old *corev1.Service) {
	is, was := &s.Spec, &old.Spec
	if len(was.ClusterIPs) > 0 && len(is.ClusterIPs) == 0 && is.ClusterIP == was.ClusterIP {
		is.ClusterIPs = was.ClusterIPs
	}
	if is.ClusterIP == was.ClusterIP || !slices.Equal(is.ClusterIPs, was.ClusterIPs) {
		return
	}
	if is.ClusterIP == "" {
		is.ClusterIPs = nil
		return
	}
	is.ClusterIPs = []string{is.ClusterIP}
}
