// SPDX-License-Identifier: Apache-2.0

// Package serviceip says how an IPAddress object stands for an address of a Service: for the API server, which allocates
// addresses, and for the controllers that look after them.
package serviceip

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ManagedBy is the label value of addresses that belong to Services, the one that upstream's allocator uses.
const ManagedBy = "ipallocator.k8s.io"

// FamilyOf returns the family of an address.
func FamilyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() || ip.Is4In6() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// New returns the object by which a Service has an address.
func New(service *corev1.Service, ip netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(FamilyOf(ip)),
				networkingv1.LabelManagedBy:       ManagedBy,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: service.Namespace, Name: service.Name}},
	}
}
