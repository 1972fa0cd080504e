// SPDX-License-Identifier: Apache-2.0

package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	sliceutil "k8s.io/endpointslice/util"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// desired returns current with the addresses of the pods, labelled as the Service is.
func desired(service *corev1.Service, pods []*corev1.Pod, current *corev1.Endpoints) *corev1.Endpoints {
	wanted := current.DeepCopy()
	wanted.Labels = maps.Clone(service.Labels)
	if wanted.Labels == nil {
		wanted.Labels = map[string]string{}
	}
	wanted.Labels[managedByLabel] = managedBy
	if service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.ClusterIP == "" {
		wanted.Labels[corev1.IsHeadlessService] = ""
	} else {
		delete(wanted.Labels, corev1.IsHeadlessService)
	}
	if wanted.Annotations == nil {
		wanted.Annotations = map[string]string{}
	}
	wanted.Subsets = subsets(service, pods)
	if truncate(wanted.Subsets) {
		wanted.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	} else {
		delete(wanted.Annotations, corev1.EndpointsOverCapacity)
	}
	return wanted
}

// subsets groups the pods by the ports they have for the Service: pods may give a named port different numbers.
func subsets(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if !sliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		ports := portsOf(service, pod)
		if len(ports) == 0 && (len(service.Spec.Ports) > 0 || service.Spec.ClusterIP != corev1.ClusterIPNone) {
			continue
		}
		id := portsID(ports)
		group := groups[id]
		if group == nil {
			group = &corev1.EndpointSubset{Ports: ports}
			groups[id] = group
		}
		if service.Spec.PublishNotReadyAddresses || podcontrol.Ready(pod) {
			group.Addresses = append(group.Addresses, address)
		} else {
			group.NotReadyAddresses = append(group.NotReadyAddresses, address)
		}
	}
	var result []corev1.EndpointSubset
	for _, id := range slices.Sorted(maps.Keys(groups)) {
		group := groups[id]
		slices.SortFunc(group.Addresses, compareAddresses)
		slices.SortFunc(group.NotReadyAddresses, compareAddresses)
		result = append(result, *group)
	}
	return result
}

func compareAddresses(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

// addressOf returns the pod's address in the Service's first IP family.
func addressOf(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	ipv6 := false
	switch {
	case len(service.Spec.IPFamilies) > 0:
		ipv6 = service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	case service.Spec.ClusterIP != "" && service.Spec.ClusterIP != corev1.ClusterIPNone:
		ipv6 = isIPv6(service.Spec.ClusterIP)
	default:
		ipv6 = isIPv6(pod.Status.PodIP)
	}
	for _, ip := range pod.Status.PodIPs {
		if isIPv6(ip.IP) != ipv6 {
			continue
		}
		address := corev1.EndpointAddress{
			IP:       ip.IP,
			NodeName: &pod.Spec.NodeName,
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			},
		}
		if sliceutil.ShouldSetHostname(pod, service) {
			address.Hostname = pod.Spec.Hostname
		}
		return address, true
	}
	return corev1.EndpointAddress{}, false
}

func isIPv6(ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err == nil && addr.Is6()
}

// portsOf returns the ports of the Service that the pod has, sorted.
func portsOf(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		number, ok := targetPort(pod, port)
		if !ok {
			continue
		}
		ports = append(ports, corev1.EndpointPort{
			Name: port.Name, Port: number, Protocol: port.Protocol, AppProtocol: port.AppProtocol,
		})
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

// targetPort looks a named port up in the pod's containers, sidecars included.
func targetPort(pod *corev1.Pod, port *corev1.ServicePort) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		return port.TargetPort.IntVal, true
	}
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, container := range containers {
		for _, p := range container.Ports {
			if p.Name == port.TargetPort.StrVal && p.Protocol == port.Protocol {
				return p.ContainerPort, true
			}
		}
	}
	return 0, false
}

func portsID(ports []corev1.EndpointPort) string {
	id := ""
	for _, p := range ports {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		id += fmt.Sprintf("%s/%d/%s/%s,", p.Name, p.Port, p.Protocol, app)
	}
	return id
}

// truncate keeps maxAddresses addresses, ready ones before others, from each subset in proportion.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, notReady := 0, 0
	for _, s := range subsets {
		ready += len(s.Addresses)
		notReady += len(s.NotReadyAddresses)
	}
	if ready+notReady <= maxAddresses {
		return false
	}
	left := maxAddresses - ready // for addresses that are not ready
	if left < 0 {
		left = 0
		keep(subsets, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.Addresses }, ready, maxAddresses)
	}
	keep(subsets, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.NotReadyAddresses }, notReady, left)
	return true
}

// keep cuts the lists, of total length, to wanted in all.
func keep(subsets []corev1.EndpointSubset, list func(*corev1.EndpointSubset) *[]corev1.EndpointAddress, total, wanted int) {
	left := wanted
	for i := range subsets {
		addresses := list(&subsets[i])
		share := min(left, (len(*addresses)*wanted+total-1)/max(total, 1))
		*addresses = (*addresses)[:min(share, len(*addresses))]
		left -= len(*addresses)
	}
}
