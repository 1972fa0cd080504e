// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
)

// A node of Skiff is a DNS server too, and puts itself behind the Service kube-dns (package dns). Upstream's nodes write
// no Services and EndpointSlices at all; ours write these and no others, so that none can lead traffic to itself.
const dnsService = "kube-dns"

func checkNodeService(name string, a admission.Attributes) error {
	service, ok := a.GetObject().(*corev1.Service)
	if !ok || a.GetOperation() != admission.Create || service.Namespace != metav1.NamespaceSystem || service.Name != dnsService {
		return fmt.Errorf("node %q can only create the Service %s/%s", name, metav1.NamespaceSystem, dnsService)
	}
	if len(service.Spec.Selector) > 0 || len(service.Spec.ExternalIPs) > 0 || service.Spec.Type != "" && service.Spec.Type != corev1.ServiceTypeClusterIP {
		return fmt.Errorf("node %q can only create a Service of type ClusterIP without selector", name)
	}
	return nil
}

func checkNodeEndpointSlice(name string, a admission.Attributes) error {
	if a.GetNamespace() != metav1.NamespaceSystem || nameOf(a) != dnsService+"-"+name {
		return fmt.Errorf("node %q can only access its own EndpointSlice of the Service %s/%s", name, metav1.NamespaceSystem, dnsService)
	}
	if a.GetOperation() == admission.Delete {
		return nil
	}
	slice, ok := a.GetObject().(*discoveryv1.EndpointSlice)
	if !ok {
		return fmt.Errorf("unexpected type %T", a.GetObject())
	}
	if slice.Labels[discoveryv1.LabelServiceName] != dnsService {
		return fmt.Errorf("node %q can only be an endpoint of the Service %s", name, dnsService)
	}
	if slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool { return e.NodeName == nil || *e.NodeName != name }) {
		return fmt.Errorf("node %q can only set endpoints on itself", name)
	}
	return nil
}
