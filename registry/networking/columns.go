// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

func ingressColumns() []rest.Column[*networkingv1.Ingress] {
	type I = *networkingv1.Ingress
	return []rest.Column[I]{
		rest.Name[I](),
		rest.Text("Class", "The name of the IngressClass resource that should be used for additional configuration", func(o I) string {
			return ptr.Deref(o.Spec.IngressClassName, "<none>")
		}),
		rest.Text("Hosts", "Hosts that incoming requests are matched against before the ingress rule", hostsCell),
		rest.Text("Address", "Address is a list containing ingress points for the load-balancer", ingressAddressCell),
		rest.Text("Ports", "Ports of TLS configurations that open", func(o I) string {
			if len(o.Spec.TLS) > 0 {
				return "80, 443"
			}
			return "80"
		}),
		rest.Age[I](),
	}
}

func hostsCell(o *networkingv1.Ingress) string {
	var hosts []string
	full := false
	for _, r := range o.Spec.Rules {
		full = full || len(hosts) == 3
		if r.Host != "" && !full {
			hosts = append(hosts, r.Host)
		}
	}
	switch {
	case len(hosts) == 0:
		return "*"
	case full:
		return rest.FirstFew(hosts, 3, len(o.Spec.Rules))
	}
	return strings.Join(hosts, ",")
}

func ingressAddressCell(o *networkingv1.Ingress) string {
	out := sets.New[string]()
	for _, in := range o.Status.LoadBalancer.Ingress {
		if address := rest.Or(in.IP, in.Hostname); address != "" {
			out.Insert(address)
		}
	}
	return strings.Join(sets.List(out), ",")
}

func ingressClassColumns() []rest.Column[*networkingv1.IngressClass] {
	type I = *networkingv1.IngressClass
	name := rest.Name[I]()
	name.Value = func(o I) any {
		if o.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			return o.Name + " (default)"
		}
		return o.Name
	}
	return []rest.Column[I]{
		name,
		rest.Text("Controller", "Controller that is responsible for handling this class", func(o I) string { return o.Spec.Controller }),
		rest.Text("Parameters", "A reference to a resource with additional parameters", func(o I) string {
			p := o.Spec.Parameters
			if p == nil {
				return "<none>"
			}
			kind := p.Kind
			if p.APIGroup != nil {
				kind += "." + *p.APIGroup
			}
			return kind + "/" + p.Name
		}),
		rest.Age[I](),
	}
}

func networkPolicyColumns() []rest.Column[*networkingv1.NetworkPolicy] {
	type N = *networkingv1.NetworkPolicy
	return []rest.Column[N]{
		rest.Name[N](),
		rest.Text("Pod-Selector", rest.Doc(networkingv1.NetworkPolicySpec{}, "podSelector"), func(o N) string { return metav1.FormatLabelSelector(&o.Spec.PodSelector) }),
		rest.Age[N](),
	}
}

func serviceCIDRColumns() []rest.Column[*networkingv1.ServiceCIDR] {
	type S = *networkingv1.ServiceCIDR
	return []rest.Column[S]{
		rest.Name[S](),
		rest.Text("CIDRs", rest.Doc(networkingv1.ServiceCIDRSpec{}, "cidrs"), func(o S) string { return strings.Join(o.Spec.CIDRs, ",") }),
		rest.Age[S](),
	}
}

func ipAddressColumns() []rest.Column[*networkingv1.IPAddress] {
	type I = *networkingv1.IPAddress
	return []rest.Column[I]{
		rest.Name[I](),
		rest.Text("ParentRef", rest.Doc(networkingv1.IPAddressSpec{}, "parentRef"), func(o I) string {
			ref := o.Spec.ParentRef
			if ref == nil {
				return "<none>"
			}
			out := strings.ToLower(schema.GroupResource{Group: ref.Group, Resource: ref.Resource}.String())
			if ref.Namespace != "" {
				out += "/" + ref.Namespace
			}
			return out + "/" + ref.Name
		}),
	}
}
