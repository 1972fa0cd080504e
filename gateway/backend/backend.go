// SPDX-License-Identifier: Apache-2.0

// Package backend finds out where the requests for a port of a Service go: to its pods, as EndpointSlices list them.
//
// It follows the Service proxy: to endpoints that are ready, or, if none is, to those that still serve while they
// terminate. Of a Service with two IP families it takes one, so that each pod counts once. Service addresses are
// not involved, so headless Services are like others. An ExternalName is no place to send requests to: it would let whoever
// may write a Service make the gateway connect to anything.
package backend

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// Values of a Service port's appProtocol that Kubernetes defines (KEP-3726). A third, kubernetes.io/ws, needs nothing particular.
const (
	AppH2C = "kubernetes.io/h2c"
	AppWSS = "kubernetes.io/wss"
)

// Name is what a table calls a port of a Service.
func Name(namespace, service string, port int32) string {
	return fmt.Sprintf("%s/%s:%d", namespace, service, port)
}

// Port finds a port of a Service by its name or, if that is "", by its number.
func Port(svc *corev1.Service, protocol corev1.Protocol, name string, number int32) (corev1.ServicePort, bool) {
	for _, p := range svc.Spec.Ports {
		if cmp.Or(p.Protocol, corev1.ProtocolTCP) == protocol && (name != "" && p.Name == name || name == "" && p.Port == number) {
			return p, true
		}
	}
	return corev1.ServicePort{}, false
}

// Usable says why no requests can be sent to a Service; "" if they can.
func Usable(svc *corev1.Service) string {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return "it is of type ExternalName, which stands for a name outside of the cluster"
	}
	return ""
}

// New describes a port of a Service. endpoints are all EndpointSlices of the Service.
func New(svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice) *table.Service {
	s := &table.Service{
		Name:      Name(svc.Namespace, svc.Name, port.Port),
		Endpoints: Endpoints(svc, port, endpoints),
		ClientIP:  svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP,
	}
	if ptr.Deref(port.AppProtocol, "") == AppH2C {
		s.Protocol = table.AppH2C
	}
	return s
}

// Endpoints returns where connections to a port of a Service go, in order and without doubles.
func Endpoints(svc *corev1.Service, port corev1.ServicePort, endpoints []*discoveryv1.EndpointSlice) []netip.AddrPort {
	var ready, terminating [2][]netip.AddrPort // by family: the Service's first, and the other
	for _, slice := range endpoints {
		family := familyIndex(svc, slice.AddressType)
		number, ok := portOf(slice, port)
		if !ok || family < 0 {
			continue
		}
		for _, e := range slice.Endpoints {
			to := &ready[family]
			if !ptr.Deref(e.Conditions.Ready, true) {
				if !ptr.Deref(e.Conditions.Serving, false) || !ptr.Deref(e.Conditions.Terminating, false) {
					continue
				}
				to = &terminating[family]
			}
			// All addresses of an endpoint are the same pod; the first is the one to use.
			if len(e.Addresses) > 0 {
				if ip, err := netip.ParseAddr(e.Addresses[0]); err == nil {
					*to = append(*to, netip.AddrPortFrom(ip, uint16(number)))
				}
			}
		}
	}
	for _, found := range [][]netip.AddrPort{ready[0], ready[1], terminating[0], terminating[1]} {
		if len(found) > 0 {
			slices.SortFunc(found, netip.AddrPort.Compare)
			return slices.Compact(found)
		}
	}
	return nil
}

// familyIndex is 0 for a Service's own family, 1 for the other one, and less than 0 for what is not an address.
func familyIndex(svc *corev1.Service, addresses discoveryv1.AddressType) int {
	if addresses != discoveryv1.AddressTypeIPv4 && addresses != discoveryv1.AddressTypeIPv6 {
		return -1
	}
	if len(svc.Spec.IPFamilies) > 0 && string(svc.Spec.IPFamilies[0]) != string(addresses) {
		return 1
	}
	return 0
}

// portOf finds the number that a Service's port has at the endpoints of a slice: pods may differ in what they mean by a name.
func portOf(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) (int32, bool) {
	for _, p := range slice.Ports {
		protocol := cmp.Or(port.Protocol, corev1.ProtocolTCP)
		if ptr.Deref(p.Name, "") == port.Name && ptr.Deref(p.Protocol, corev1.ProtocolTCP) == protocol && p.Port != nil {
			return *p.Port, true
		}
	}
	return 0, false
}
