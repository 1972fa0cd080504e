// SPDX-License-Identifier: Apache-2.0

package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	protocol := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	for _, r := range p.Spec.Ingress {
		protocol(r.Ports)
	}
	for _, r := range p.Spec.Egress {
		protocol(r.Ports)
	}
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

// eachBlock calls f with each block of addresses of a policy.
func eachBlock(p *networkingv1.NetworkPolicy, f func(path *field.Path, block *networkingv1.IPBlock)) {
	peers := func(path *field.Path, peers []networkingv1.NetworkPolicyPeer) {
		for i := range peers {
			if peers[i].IPBlock != nil {
				f(path.Index(i).Child("ipBlock"), peers[i].IPBlock)
			}
		}
	}
	path := field.NewPath("spec")
	for i, r := range p.Spec.Ingress {
		peers(path.Child("ingress").Index(i).Child("from"), r.From)
	}
	for i, r := range p.Spec.Egress {
		peers(path.Child("egress").Index(i).Child("to"), r.To)
	}
}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	errs := rule.ObjectMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, policyRules{}.validate(&p.Spec)...)
}

func validateNetworkPolicyUpdate(p, old *networkingv1.NetworkPolicy) field.ErrorList {
	rules := policyRules{tolerant: len(rule.LabelSelector(nil, &old.Spec.PodSelector, false)) > 0}
	eachBlock(old, func(_ *field.Path, block *networkingv1.IPBlock) {
		rules.known = append(append(rules.known, block.CIDR), block.Except...)
	})
	return append(rule.ObjectMetaUpdate(&p.ObjectMeta), rules.validate(&p.Spec)...)
}

// policyRules are the rules of a policy, which depend on what the old one had.
type policyRules struct {
	tolerant bool     // of label values that are none
	known    []string // blocks of addresses that may stay as they are
}

func (r policyRules) validate(spec *networkingv1.NetworkPolicySpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.LabelSelector(path.Child("podSelector"), &spec.PodSelector, r.tolerant)
	for i := range spec.Ingress {
		in, at := &spec.Ingress[i], path.Child("ingress").Index(i)
		errs = append(errs, r.validateRule(at.Child("ports"), at.Child("from"), in.Ports, in.From)...)
	}
	for i := range spec.Egress {
		out, at := &spec.Egress[i], path.Child("egress").Index(i)
		errs = append(errs, r.validateRule(at.Child("ports"), at.Child("to"), out.Ports, out.To)...)
	}
	types := path.Child("policyTypes")
	if len(spec.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range spec.PolicyTypes {
		errs = append(errs, rule.Supported(types.Index(i), t, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func (r policyRules) validateRule(portPath, peerPath *field.Path, ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(portPath.Index(i), &ports[i])...)
	}
	for i := range peers {
		errs = append(errs, r.validatePeer(peerPath.Index(i), &peers[i])...)
	}
	return errs
}

func validatePolicyPort(path *field.Path, p *networkingv1.NetworkPolicyPort) field.ErrorList {
	errs := rule.SupportedIfSet(path.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	if p.Port != nil {
		errs = append(errs, rule.PortNumberOrName(path.Child("port"), *p.Port)...)
	}
	if p.EndPort == nil {
		return errs
	}
	end := path.Child("endPort")
	switch {
	case p.Port == nil:
		return append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
	case p.Port.Type == intstr.String:
		return append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
	}
	errs = append(errs, rule.If(*p.EndPort < p.Port.IntVal, field.Invalid(end, *p.EndPort, "must be greater than or equal to `port`"))...)
	return append(errs, rule.Port(end, *p.EndPort)...)
}

func (r policyRules) validatePeer(path *field.Path, p *networkingv1.NetworkPolicyPeer) field.ErrorList {
	errs := rule.LabelSelector(path.Child("podSelector"), p.PodSelector, r.tolerant)
	errs = append(errs, rule.LabelSelector(path.Child("namespaceSelector"), p.NamespaceSelector, r.tolerant)...)
	selects := p.PodSelector != nil || p.NamespaceSelector != nil
	if p.IPBlock == nil {
		return append(errs, rule.If(!selects, field.Required(path, "must specify a peer"))...)
	}
	errs = append(errs, r.validateBlock(path.Child("ipBlock"), p.IPBlock)...)
	return append(errs, rule.If(selects, field.Forbidden(path, "may not specify both ipBlock and another peer"))...)
}

func (r policyRules) validateBlock(path *field.Path, b *networkingv1.IPBlock) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs := rule.CIDR(path.Child("cidr"), b.CIDR, r.known...)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	size, _ := whole.Mask.Size()
	for i, except := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, rule.CIDR(at, except, r.known...)...)
		_, part, err := netutils.ParseCIDRSloppy(except)
		if err != nil {
			continue
		}
		partSize, _ := part.Mask.Size()
		errs = append(errs, rule.If(!whole.Contains(part.IP) || size >= partSize, field.Invalid(at, except, "must be a strict subset of `cidr`"))...)
	}
	return errs
}

func networkPolicyWarnings(p, _ *networkingv1.NetworkPolicy) []string {
	var out []string
	eachBlock(p, func(path *field.Path, block *networkingv1.IPBlock) {
		out = append(out, validation.GetWarningsForCIDR(path.Child("cidr"), block.CIDR)...)
		for i, except := range block.Except {
			out = append(out, validation.GetWarningsForCIDR(path.Child("except").Index(i), except)...)
		}
	})
	return out
}
