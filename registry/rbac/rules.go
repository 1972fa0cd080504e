// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Roles differ from ClusterRoles, and their bindings, in little.

func validateRole(r *rbacv1.Role) field.ErrorList {
	return append(rule.ObjectMeta(&r.ObjectMeta, true, path.ValidatePathSegmentName), validatePolicyRules(r.Rules, true)...)
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList { return validateAggregated(r, false) }

func validateClusterRoleUpdate(r, old *rbacv1.ClusterRole) field.ErrorList {
	tolerant := false
	if old.AggregationRule != nil {
		for i := range old.AggregationRule.ClusterRoleSelectors {
			tolerant = tolerant || len(rule.LabelSelector(nil, &old.AggregationRule.ClusterRoleSelectors[i], false)) > 0
		}
	}
	return validateAggregated(r, tolerant)
}

// validateAggregated checks a ClusterRole; tolerant lets label values stand that are none.
func validateAggregated(r *rbacv1.ClusterRole, tolerant bool) field.ErrorList {
	errs := rule.ObjectMeta(&r.ObjectMeta, false, path.ValidatePathSegmentName)
	errs = append(errs, validatePolicyRules(r.Rules, false)...)
	if r.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	errs = append(errs, rule.If(len(r.AggregationRule.ClusterRoleSelectors) == 0,
		field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))...)
	for i := range r.AggregationRule.ClusterRoleSelectors {
		s := &r.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, rule.LabelSelector(at.Index(i), s, tolerant)...)
		selector, err := metav1.LabelSelectorAsSelector(s)
		errs = append(errs, rule.If(err != nil, field.Invalid(at.Index(i), selector, "invalid label selector."))...)
	}
	return errs
}

func validatePolicyRules(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range rules {
		at := field.NewPath("rules").Index(i)
		errs = append(errs, rule.If(len(r.Verbs) == 0, field.Required(at.Child("verbs"), ""))...)
		if len(r.NonResourceURLs) > 0 {
			urls := at.Child("nonResourceURLs")
			errs = append(errs, rule.If(namespaced, field.Invalid(urls, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))...)
			errs = append(errs, rule.If(len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0,
				field.Invalid(urls, r.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))...)
			continue
		}
		errs = append(errs, rule.If(len(r.APIGroups) == 0, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))...)
		errs = append(errs, rule.If(len(r.Resources) == 0, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))...)
	}
	return errs
}

func defaultRoleBinding(b *rbacv1.RoleBinding) {
	defaultGroup(&b.RoleRef.APIGroup)
	defaultSubjects(b.Subjects)
}

func defaultClusterRoleBinding(b *rbacv1.ClusterRoleBinding) {
	defaultGroup(&b.RoleRef.APIGroup)
	defaultSubjects(b.Subjects)
}

func defaultGroup(group *string) {
	if *group == "" {
		*group = rbacv1.GroupName
	}
}

func defaultSubjects(subjects []rbacv1.Subject) {
	for i := range subjects {
		if kind := subjects[i].Kind; kind == rbacv1.UserKind || kind == rbacv1.GroupKind {
			defaultGroup(&subjects[i].APIGroup)
		}
	}
}

func validateRoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	errs := rule.ObjectMeta(&b.ObjectMeta, true, path.ValidatePathSegmentName)
	errs = append(errs, validateRoleRef(b.RoleRef, "Role", "ClusterRole")...)
	return append(errs, validateSubjects(b.Subjects, true)...)
}

func validateClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	errs := rule.ObjectMeta(&b.ObjectMeta, false, path.ValidatePathSegmentName)
	errs = append(errs, validateRoleRef(b.RoleRef, "ClusterRole")...)
	return append(errs, validateSubjects(b.Subjects, false)...)
}

func validateRoleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	return append(validateRoleBinding(b), rule.Unchanged(field.NewPath("roleRef"), b.RoleRef, old.RoleRef)...)
}

func validateClusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	return append(validateClusterRoleBinding(b), rule.Unchanged(field.NewPath("roleRef"), b.RoleRef, old.RoleRef)...)
}

func validateRoleRef(ref rbacv1.RoleRef, kinds ...string) field.ErrorList {
	at := field.NewPath("roleRef")
	errs := rule.Supported(at.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	errs = append(errs, rule.Supported(at.Child("kind"), ref.Kind, kinds...)...)
	if ref.Name == "" {
		return append(errs, field.Required(at.Child("name"), ""))
	}
	return append(errs, rule.Invalid(at.Child("name"), ref.Name, content.IsPathSegmentName(ref.Name))...)
}

func validateSubjects(subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, s := range subjects {
		at := field.NewPath("subjects").Index(i)
		errs = append(errs, rule.Required(at.Child("name"), s.Name)...)
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				errs = append(errs, rule.Name(at.Child("name"), s.Name, apivalidation.ValidateServiceAccountName)...)
			}
			errs = append(errs, rule.Supported(at.Child("apiGroup"), s.APIGroup, "")...)
			errs = append(errs, rule.If(!namespaced && s.Namespace == "", field.Required(at.Child("namespace"), ""))...)
		case rbacv1.UserKind, rbacv1.GroupKind:
			errs = append(errs, rule.Supported(at.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)...)
		default:
			errs = append(errs, field.NotSupported(at.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
	return errs
}
