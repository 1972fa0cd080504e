// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const maxControllerLength = 250

func defaultIngressClass(c *networkingv1.IngressClass) {
	if p := c.Spec.Parameters; p != nil && p.Scope == nil {
		p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	path := field.NewPath("spec")
	errs := rule.ObjectMeta(&c.ObjectMeta, false, apivalidation.NameIsDNSSubdomain)
	controller := path.Child("controller")
	errs = append(errs, rule.If(len(c.Spec.Controller) > maxControllerLength, field.TooLong(controller, "", maxControllerLength))...)
	errs = append(errs, validation.IsDomainPrefixedPath(controller, c.Spec.Controller)...)
	if c.Spec.Parameters != nil {
		errs = append(errs, validateClassParameters(path.Child("parameters"), c.Spec.Parameters)...)
	}
	return errs
}

func validateClassParameters(path *field.Path, p *networkingv1.IngressClassParametersReference) field.ErrorList {
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = rule.DNSSubdomain(path.Child("apiGroup"), *p.APIGroup)
	}
	errs = append(errs, validateSegment(path.Child("kind"), p.Kind)...)
	errs = append(errs, validateSegment(path.Child("name"), p.Name)...)
	if p.Scope == nil {
		return append(errs, field.Required(path.Child("scope"), ""))
	}
	namespace := path.Child("namespace")
	switch {
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace && p.Namespace == nil:
		return append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		return append(errs, rule.DNSLabel(namespace, *p.Namespace)...)
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeCluster:
		return append(errs, rule.If(p.Namespace != nil, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))...)
	}
	return append(errs, rule.Supported(path.Child("scope"), *p.Scope,
		networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)...)
}

func validateIngressClassUpdate(c, old *networkingv1.IngressClass) field.ErrorList {
	errs := rule.Unchanged(field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller)
	return append(errs, validateIngressClass(c)...)
}
