// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/core"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxEndpoints      = 1000
	maxAddresses      = 100
	maxPorts          = 20000
	maxHints          = 8
	maxTopologyLabels = 16
)

func defaultEndpointSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = ptr.To("")
		}
		if p.Protocol == nil {
			p.Protocol = ptr.To(corev1.ProtocolTCP)
		}
	}
}

func prepareEndpointSliceCreate(s *discoveryv1.EndpointSlice) { dropTopology(s, nil) }

// dropTopology clears what became nodeName and zone, unless the endpoints are as they were. A node that
// was only named there gets into its field.
func dropTopology(s, old *discoveryv1.EndpointSlice) {
	nodes := sets.New[string]()
	if old != nil {
		if equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
			return
		}
		for _, e := range old.Endpoints {
			nodes.Insert(e.DeprecatedTopology[corev1.LabelHostname])
		}
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		node := e.DeprecatedTopology[corev1.LabelHostname]
		if e.NodeName == nil && node != "" && nodes.Has(node) && len(apivalidation.NameIsDNSSubdomain(node, false)) == 0 {
			e.NodeName = &node
		}
		e.DeprecatedTopology = nil
	}
}

func validateEndpointSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	return append(validateSliceWithoutEndpoints(s), validateEndpoints(s)...)
}

// validateEndpointSliceUpdate lets endpoints stand that are wrong, but were so before.
func validateEndpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	errs := validateSliceWithoutEndpoints(s)
	if wrong := validateEndpoints(s); len(wrong) > 0 && !equality.Semantic.DeepEqual(s.Endpoints, old.Endpoints) {
		errs = append(errs, wrong...)
	}
	return append(errs, rule.Fixed(field.NewPath("addressType"), s.AddressType, old.AddressType)...)
}

func validateSliceWithoutEndpoints(s *discoveryv1.EndpointSlice) field.ErrorList {
	errs := rule.ObjectMeta(&s.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, rule.OneOf(field.NewPath("addressType"), s.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)...)
	path := field.NewPath("ports")
	if n := len(s.Ports); n > maxPorts {
		return append(errs, field.TooMany(path, n, maxPorts))
	}
	names := sets.New[string]()
	for i, p := range s.Ports {
		at, name := path.Index(i), ptr.Deref(p.Name, "")
		if name != "" {
			errs = append(errs, rule.DNSLabel(at.Child("name"), name)...)
		}
		errs = append(errs, rule.If(names.Has(name), field.Duplicate(at.Child("name"), p.Name))...)
		names.Insert(name)
		errs = append(errs, rule.If(p.Protocol == nil, field.Required(at.Child("protocol"), ""))...)
		errs = append(errs, rule.SupportedIfSet(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.AppProtocol != nil {
			errs = append(errs, rule.QualifiedName(at.Child("appProtocol"), *p.AppProtocol)...)
		}
	}
	return errs
}

func validateEndpoints(s *discoveryv1.EndpointSlice) field.ErrorList {
	path := field.NewPath("endpoints")
	if n := len(s.Endpoints); n > maxEndpoints {
		return field.ErrorList{field.TooMany(path, n, maxEndpoints)}
	}
	var errs field.ErrorList
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], path.Index(i)
		errs = append(errs, validateAddresses(at.Child("addresses"), e.Addresses, s.AddressType)...)
		if e.NodeName != nil {
			errs = append(errs, rule.Name(at.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain)...)
		}
		topology := at.Child("deprecatedTopology")
		if n := len(e.DeprecatedTopology); n > maxTopologyLabels {
			errs = append(errs, field.TooMany(topology, n, maxTopologyLabels))
		}
		errs = append(errs, rule.Labels(topology, e.DeprecatedTopology)...)
		if e.Hostname != nil {
			errs = append(errs, rule.DNSLabel(at.Child("hostname"), *e.Hostname)...)
		}
		if e.Hints != nil {
			errs = append(errs, validateHints(at.Child("hints"), e.Hints)...)
		}
	}
	return errs
}

// validateAddresses: a wrong family is an error of the list, anything else of the address.
func validateAddresses(path *field.Path, addresses []string, kind discoveryv1.AddressType) field.ErrorList {
	var errs field.ErrorList
	switch n := len(addresses); {
	case n == 0:
		errs = append(errs, field.Required(path, ""))
	case n > maxAddresses:
		errs = append(errs, field.TooMany(path, n, maxAddresses))
	}
	for i, a := range addresses {
		at := path.Index(i)
		var wrong field.ErrorList
		switch kind {
		case discoveryv1.AddressTypeIPv4:
			wrong = rule.IP(at, a)
		case discoveryv1.AddressTypeIPv6:
			wrong = validation.IsValidIP(at, a)
		case discoveryv1.AddressTypeFQDN:
			errs = append(errs, validation.IsFullyQualifiedDomainName(at, a)...)
			continue
		default:
			continue
		}
		errs = append(errs, wrong...)
		if len(wrong) > 0 {
			continue
		}
		isFamily := netutils.IsIPv6String(a) == (kind == discoveryv1.AddressTypeIPv6)
		errs = append(errs, rule.If(!isFamily, field.Invalid(path, a, fmt.Sprintf("must be an %s address", kind)))...)
		errs = append(errs, core.ValidateEndpointIP(at, a)...)
	}
	return errs
}

func validateHints(path *field.Path, hints *discoveryv1.EndpointHints) field.ErrorList {
	zones, nodes := make([]string, 0, len(hints.ForZones)), make([]string, 0, len(hints.ForNodes))
	for _, z := range hints.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range hints.ForNodes {
		nodes = append(nodes, n.Name)
	}
	errs := validateHintNames(path.Child("forZones"), zones, validation.IsValidLabelValue)
	if len(zones) > maxHints {
		return errs
	}
	isNode := func(name string) []string { return apivalidation.NameIsDNSSubdomain(name, false) }
	return append(errs, validateHintNames(path.Child("forNodes"), nodes, isNode)...)
}

func validateHintNames(path *field.Path, names []string, check func(string) []string) field.ErrorList {
	if len(names) > maxHints {
		return field.ErrorList{field.TooMany(path, len(names), maxHints)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, name := range names {
		at := path.Index(i).Child("name")
		errs = append(errs, rule.If(seen.Has(name), field.Duplicate(at, name))...)
		seen.Insert(name)
		errs = append(errs, rule.Invalid(at, name, check(name))...)
	}
	return errs
}

// endpointSliceWarnings spare the controllers, which copy addresses from elsewhere. old is nil on create.
func endpointSliceWarnings(s, old *discoveryv1.EndpointSlice) []string {
	var list []string
	if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
		list = append(list, "spec.addressType: FQDN endpoints are deprecated")
	}
	switch s.Labels[discoveryv1.LabelManagedBy] {
	case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
		return list
	}
	for i, e := range s.Endpoints {
		for j, a := range e.Addresses {
			list = append(list, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), a)...)
		}
	}
	return list
}
