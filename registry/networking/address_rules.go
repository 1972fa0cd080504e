// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Rules of IPAddresses and of ServiceCIDRs, from which they come.

// validateIPAddressName: the name is the address, so there is one way to write it.
func validateIPAddressName(name string, _ bool) []string {
	var out []string
	for _, err := range validation.IsValidIP(nil, name) {
		out = append(out, err.Detail)
	}
	return out
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	errs, path := rule.ObjectMeta(&a.ObjectMeta, false, validateIPAddressName), field.NewPath("spec", "parentRef")
	p := a.Spec.ParentRef
	if p == nil {
		return append(errs, field.Required(path, ""))
	}
	if p.Group != "" {
		errs = append(errs, rule.DNSSubdomain(path.Child("group"), p.Group)...)
	}
	errs = append(errs, validateSegment(path.Child("resource"), p.Resource)...)
	errs = append(errs, validateSegment(path.Child("name"), p.Name)...)
	if p.Namespace != "" {
		errs = append(errs, validateSegment(path.Child("namespace"), p.Namespace)...)
	}
	return errs
}

func validateIPAddressUpdate(a, old *networkingv1.IPAddress) field.ErrorList {
	return append(validateIPAddress(a), rule.Fixed(field.NewPath("spec", "parentRef"), a.Spec.ParentRef, old.Spec.ParentRef)...)
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	return append(rule.ObjectMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), validateCIDRs(&c.Spec)...)
}

func validateCIDRs(spec *networkingv1.ServiceCIDRSpec) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	switch n := len(spec.CIDRs); {
	case n == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(path, spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range spec.CIDRs {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), cidr)...)
	}
	if len(spec.CIDRs) == 1 {
		return errs
	}
	family := netutils.IPFamilyOfCIDRString(spec.CIDRs[0])
	return append(errs, rule.If(family != netutils.IPFamilyUnknown && family == netutils.IPFamilyOfCIDRString(spec.CIDRs[1]),
		field.Invalid(path, spec.CIDRs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))...)
}

// validateServiceCIDRUpdate lets a second family join, and nothing else.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	errs, path := rule.ObjectMetaUpdate(&c.ObjectMeta), field.NewPath("spec", "cidrs")
	is, was := c.Spec.CIDRs, old.Spec.CIDRs
	joins := len(was) == 1 && len(is) == 2
	if len(is) != len(was) && !joins {
		return append(errs, field.Invalid(path, is, rule.Immutable))
	}
	for i := range was {
		errs = append(errs, rule.If(is[i] != was[i], field.Invalid(path.Index(i), is[i], rule.Immutable))...)
	}
	if joins {
		errs = append(errs, validateCIDRs(&c.Spec)...)
	}
	return errs
}

func validateServiceCIDRStatus(c, _ *networkingv1.ServiceCIDR) field.ErrorList {
	return rule.ObjectMetaUpdate(&c.ObjectMeta)
}
