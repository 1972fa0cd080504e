// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultEndpoints(e *corev1.Endpoints) {
	for _, s := range e.Subsets {
		for i := range s.Ports {
			if s.Ports[i].Protocol == "" {
				s.Ports[i].Protocol = corev1.ProtocolTCP
			}
		}
	}
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	return append(rule.ObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), validateSubsets(e.Subsets)...)
}

// validateEndpointsUpdate lets subsets stand that are wrong, but were so before.
func validateEndpointsUpdate(e, old *corev1.Endpoints) field.ErrorList {
	errs := rule.ObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	if wrong := validateSubsets(e.Subsets); len(wrong) > 0 && !equality.Semantic.DeepEqual(e.Subsets, old.Subsets) {
		errs = append(errs, wrong...)
	}
	return errs
}

func validateSubsets(subsets []corev1.EndpointSubset) field.ErrorList {
	var errs field.ErrorList
	for i, s := range subsets {
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range s.Addresses {
			errs = append(errs, validateEndpointAddress(at.Child("addresses").Index(j), a)...)
		}
		for j, a := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(at.Child("notReadyAddresses").Index(j), a)...)
		}
		for j, p := range s.Ports {
			errs = append(errs, validateEndpointPort(at.Child("ports").Index(j), p, len(s.Ports) > 1)...)
		}
	}
	return errs
}

func validateEndpointAddress(path *field.Path, a corev1.EndpointAddress) field.ErrorList {
	errs := rule.IP(path.Child("ip"), a.IP)
	if a.Hostname != "" {
		errs = append(errs, rule.DNSLabel(path.Child("hostname"), a.Hostname)...)
	}
	if a.NodeName != nil {
		errs = append(errs, rule.Name(path.Child("nodeName"), *a.NodeName, apivalidation.NameIsDNSSubdomain)...)
	}
	return append(errs, ValidateEndpointIP(path.Child("ip"), a.IP)...)
}

func validateEndpointPort(path *field.Path, p corev1.EndpointPort, needsName bool) field.ErrorList {
	var errs field.ErrorList
	switch {
	case p.Name != "":
		errs = rule.DNSLabel(path.Child("name"), p.Name)
	case needsName:
		errs = field.ErrorList{field.Required(path.Child("name"), "")}
	}
	errs = append(errs, rule.Port(path.Child("port"), p.Port)...)
	errs = append(errs, rule.OneOf(path.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	if p.AppProtocol != nil {
		errs = append(errs, rule.QualifiedName(path.Child("appProtocol"), *p.AppProtocol)...)
	}
	return errs
}

// endpointsWarnings spares the controller, which copies addresses from pods.
func endpointsWarnings(e *corev1.Endpoints) []string {
	if e.Labels["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
		return nil
	}
	var list []string
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, a := range s.Addresses {
			list = append(list, validation.GetWarningsForIP(at.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range s.NotReadyAddresses {
			list = append(list, validation.GetWarningsForIP(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return list
}
