// SPDX-License-Identifier: Apache-2.0

package networking

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// classAnnotation named the class before spec.ingressClassName did.
const classAnnotation = "kubernetes.io/ingress.class"

func validateIngress(in *networkingv1.Ingress) field.ErrorList {
	errs := rule.ObjectMeta(&in.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, ingressRules{}.validate(&in.Spec)...)
	class, annotated := in.Annotations[classAnnotation]
	return append(errs, rule.If(annotated && in.Spec.IngressClassName != nil && *in.Spec.IngressClassName != class,
		field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))...)
}

func validateIngressUpdate(in, old *networkingv1.Ingress) field.ErrorList {
	rules := ingressRules{
		anySecret: slices.ContainsFunc(old.Spec.TLS, func(t networkingv1.IngressTLS) bool { return len(validateTLSSecret(nil, t.SecretName)) > 0 }),
		anyWildcard: slices.ContainsFunc(old.Spec.Rules, func(r networkingv1.IngressRule) bool {
			return strings.Contains(r.Host, "*") && len(validateHTTP(nil, r.HTTP)) > 0
		}),
	}
	errs := rule.ObjectMeta(&in.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	return append(errs, rules.validate(&in.Spec)...)
}

// ingressRules tell what was wrong in the old Ingress, and may stay so.
type ingressRules struct{ anySecret, anyWildcard bool }

func (r ingressRules) validate(spec *networkingv1.IngressSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.If(len(spec.Rules) == 0 && spec.DefaultBackend == nil,
		field.Invalid(path, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	if spec.DefaultBackend != nil {
		errs = append(errs, validateBackend(path.Child("defaultBackend"), spec.DefaultBackend)...)
	}
	for i := range spec.Rules {
		host, at := spec.Rules[i].Host, path.Child("rules").Index(i)
		if host != "" {
			errs = append(errs, rule.If(netutils.ParseIPSloppy(host) != nil, field.Invalid(at.Child("host"), host, notAnIP))...)
			errs = append(errs, validateHost(at.Child("host"), host)...)
		}
		if !r.anyWildcard || !strings.Contains(host, "*") {
			errs = append(errs, validateHTTP(at.Child("http"), spec.Rules[i].HTTP)...)
		}
	}
	for i, tls := range spec.TLS {
		at := path.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, validateHost(at.Child("hosts").Index(j), host)...)
		}
		if !r.anySecret {
			errs = append(errs, validateTLSSecret(at.Child("secretName"), tls.SecretName)...)
		}
	}
	if spec.IngressClassName != nil {
		errs = append(errs, rule.DNSSubdomain(path.Child("ingressClassName"), *spec.IngressClassName)...)
	}
	return errs
}

const notAnIP = "must be a DNS name, not an IP address"

func validateHost(path *field.Path, host string) field.ErrorList {
	if strings.Contains(host, "*") {
		return rule.Invalid(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return rule.DNSSubdomain(path, host)
}

func validateTLSSecret(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return nil
	}
	return rule.DNSSubdomain(path, name)
}

func validateHTTP(path *field.Path, http *networkingv1.HTTPIngressRuleValue) field.ErrorList {
	if http == nil {
		return nil
	}
	errs := rule.If(len(http.Paths) == 0, field.Required(path.Child("paths"), ""))
	for i := range http.Paths {
		errs = append(errs, validateHTTPPath(path.Child("paths").Index(i), &http.Paths[i])...)
	}
	return errs
}

func validateHTTPPath(path *field.Path, p *networkingv1.HTTPIngressPath) field.ErrorList {
	at := path.Child("path")
	absolute := rule.If(!strings.HasPrefix(p.Path, "/"), field.Invalid(at, p.Path, "must be an absolute path"))
	var errs field.ErrorList
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		errs = absolute
		for _, s := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			errs = append(errs, rule.If(strings.Contains(p.Path, s), field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", s)))...)
		}
		for _, s := range []string{"/..", "/."} {
			errs = append(errs, rule.If(strings.HasSuffix(p.Path, s), field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", s)))...)
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" {
			errs = absolute
		}
	default:
		errs = rule.Supported(path.Child("pathType"), *p.PathType, networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	}
	return append(errs, validateBackend(path.Child("backend"), &p.Backend)...)
}

func validateBackend(path *field.Path, b *networkingv1.IngressBackend) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(path.Child("resource"), b.Resource)
	case b.Service != nil:
		return validateServiceBackend(path, b.Service)
	}
	return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
}

func validateServiceBackend(path *field.Path, s *networkingv1.IngressServiceBackend) field.ErrorList {
	service := path.Child("service")
	errs := rule.Required(service.Child("name"), s.Name)
	if s.Name != "" {
		errs = rule.DNSLabel(service.Child("name"), s.Name)
	}
	switch named, numbered := s.Port.Name != "", s.Port.Number != 0; {
	case named && numbered:
		return append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case named:
		return append(errs, rule.Invalid(service.Child("port", "name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))...)
	case numbered:
		return append(errs, rule.Port(service.Child("port", "number"), s.Port.Number)...)
	}
	return append(errs, field.Required(path, "port name or number is required"))
}

func validateReference(path *field.Path, r *corev1.TypedLocalObjectReference) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = rule.DNSSubdomain(path.Child("apiGroup"), *r.APIGroup)
	}
	errs = append(errs, validateSegment(path.Child("kind"), r.Kind)...)
	return append(errs, validateSegment(path.Child("name"), r.Name)...)
}

// validateSegment says that a string must be there and must fit into a path.
func validateSegment(path *field.Path, s string) field.ErrorList {
	if s == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return rule.Invalid(path, s, content.IsPathSegmentName(s))
}

func validateIngressStatus(in, old *networkingv1.Ingress) field.ErrorList {
	var known []string
	for _, was := range old.Status.LoadBalancer.Ingress {
		known = append(known, was.IP)
	}
	errs, path := rule.ObjectMetaUpdate(&in.ObjectMeta), field.NewPath("status", "loadBalancer", "ingress")
	for i, point := range in.Status.LoadBalancer.Ingress {
		if point.IP != "" {
			errs = append(errs, rule.IP(path.Index(i).Child("ip"), point.IP, known...)...)
		}
		if host, at := point.Hostname, path.Index(i).Child("hostname"); host != "" {
			errs = append(errs, rule.DNSSubdomain(at, host)...)
			errs = append(errs, rule.If(netutils.ParseIPSloppy(host) != nil, field.Invalid(at, host, notAnIP))...)
		}
	}
	return errs
}

func ingressWarnings(in, old *networkingv1.Ingress) []string {
	if _, annotated := in.Annotations[classAnnotation]; annotated && old == nil && in.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
	}
	return nil
}

func ingressStatusWarnings(in, _ *networkingv1.Ingress) []string {
	var out []string
	for i, point := range in.Status.LoadBalancer.Ingress {
		if point.IP != "" {
			out = append(out, validation.GetWarningsForIP(field.NewPath("status", "loadBalancer", "ingress").Index(i), point.IP)...)
		}
	}
	return out
}
