// SPDX-License-Identifier: Apache-2.0

package flowcontrol

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const defaultPrecedence = 1000

func defaultFlowSchema(s *flowcontrolv1.FlowSchema) {
	if s.Spec.MatchingPrecedence == 0 {
		s.Spec.MatchingPrecedence = defaultPrecedence
	}
}

// keepMeta lets an update of status change nothing of metadata, not even be wrong about it. Who owns what of the status
// is new.
func keepMeta(meta, old *metav1.ObjectMeta) {
	managed := meta.ManagedFields
	*meta = *old
	meta.ManagedFields = managed
}

func validateFlowSchema(s *flowcontrolv1.FlowSchema) field.ErrorList {
	errs, path := rule.ObjectMeta(&s.ObjectMeta, false, apivalidation.NameIsDNSSubdomain), field.NewPath("spec")
	errs = append(errs, validateFlowSchemaSpec(path, s.Name, &s.Spec)...)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		errs = append(errs, rule.If(fixed.Name == s.Name && !equality.Semantic.DeepEqual(s.Spec, fixed.Spec),
			field.Invalid(path, s.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", s.Name)))...)
	}
	return append(errs, validateFlowSchemaStatus(s, nil)...)
}

func validateFlowSchemaStatus(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	types := make([]string, len(s.Status.Conditions))
	for i, c := range s.Status.Conditions {
		types[i] = string(c.Type)
	}
	return validateConditionTypes(types)
}

func validateConditionTypes(types []string) field.ErrorList {
	var errs field.ErrorList
	for i, t := range types {
		at := field.NewPath("status", "conditions").Index(i).Child("type")
		errs = append(errs, rule.If(slices.Contains(types[:i], t), field.Duplicate(at, t))...)
		errs = append(errs, rule.Required(at, t)...)
	}
	return errs
}

func validateFlowSchemaSpec(path *field.Path, name string, spec *flowcontrolv1.FlowSchemaSpec) field.ErrorList {
	n, precedence := spec.MatchingPrecedence, path.Child("matchingPrecedence")
	errs := rule.If(n <= 0, field.Invalid(precedence, n, "must be a positive value"))
	errs = append(errs, rule.If(n > flowcontrolv1.FlowSchemaMaxMatchingPrecedence,
		field.Invalid(precedence, n, fmt.Sprintf("must not be greater than %v", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))...)
	errs = append(errs, rule.If(n == 1 && name != flowcontrolv1.FlowSchemaNameExempt,
		field.Invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1"))...)
	methods := []string{string(flowcontrolv1.FlowDistinguisherMethodByNamespaceType), string(flowcontrolv1.FlowDistinguisherMethodByUserType)}
	if m := spec.DistinguisherMethod; m != nil && !slices.Contains(methods, string(m.Type)) {
		errs = append(errs, field.NotSupported(path.Child("distinguisherMethod", "type"), m, methods))
	}
	if level, at := spec.PriorityLevelConfiguration.Name, path.Child("priorityLevelConfiguration", "name"); level == "" {
		errs = append(errs, field.Required(at, "must reference a priority level"))
	} else {
		errs = append(errs, rule.DNSSubdomain(at, level)...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateFlowRule(path.Child("rules").Index(i), &spec.Rules[i])...)
	}
	return errs
}

func validateFlowRule(path *field.Path, r *flowcontrolv1.PolicyRulesWithSubjects) field.ErrorList {
	errs := rule.If(len(r.Subjects) == 0, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	for i := range r.Subjects {
		errs = append(errs, validateSubject(path.Child("subjects").Index(i), &r.Subjects[i])...)
	}
	errs = append(errs, rule.If(len(r.ResourceRules)+len(r.NonResourceRules) == 0,
		field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))...)
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(path.Child("resourceRules").Index(i), &r.ResourceRules[i])...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateNonResourceRule(path.Child("nonResourceRules").Index(i), &r.NonResourceRules[i])...)
	}
	return errs
}

// validateSubject says that a subject has the one member that its kind names.
func validateSubject(path *field.Path, s *flowcontrolv1.Subject) field.ErrorList {
	var errs field.ErrorList
	known := false
	for _, member := range []struct {
		kind  flowcontrolv1.SubjectKind
		field string
		set   bool
		check func(at *field.Path) field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil, func(at *field.Path) field.ErrorList {
			return validateServiceAccount(at, s.ServiceAccount)
		}},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil, func(at *field.Path) field.ErrorList { return rule.Required(at.Child("name"), s.User.Name) }},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil, func(at *field.Path) field.ErrorList { return rule.Required(at.Child("name"), s.Group.Name) }},
	} {
		at := path.Child(member.field)
		switch {
		case s.Kind == member.kind && !member.set:
			known, errs = true, append(errs, field.Required(at, fmt.Sprintf("%s is required when subject kind is '%s'", member.field, member.kind)))
		case s.Kind == member.kind:
			known, errs = true, append(errs, member.check(at)...)
		case member.set:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", member.field, member.kind)))
		}
	}
	if known {
		return errs
	}
	return rule.Supported(path.Child("kind"), s.Kind, flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser)
}

func validateServiceAccount(path *field.Path, s *flowcontrolv1.ServiceAccountSubject) field.ErrorList {
	errs := rule.Required(path.Child("name"), s.Name)
	if s.Name != "" && s.Name != flowcontrolv1.NameAll {
		errs = append(errs, rule.Name(path.Child("name"), s.Name, apivalidation.ValidateServiceAccountName)...)
	}
	if s.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, rule.DNSLabel(path.Child("namespace"), s.Namespace)...)
}

var verbs = sets.New("get", "list", "create", "update", "delete", "deletecollection", "patch", "watch", "proxy")

func validateVerbs(path *field.Path, list []string) field.ErrorList {
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(list, "*"):
		return onlyAll(path, list, "verbs")
	case !verbs.HasAll(list...):
		return field.ErrorList{field.NotSupported(path, list, sets.List(verbs))}
	}
	return nil
}

// onlyAll says that "*" stands alone. what is listed otherwise is for the message.
func onlyAll(path *field.Path, list []string, what string) field.ErrorList {
	return rule.If(len(list) > 1 && slices.Contains(list, "*"), field.Invalid(path, list, "if '*' is present, must not specify other "+what))
}

func validateResourceRule(path *field.Path, r *flowcontrolv1.ResourcePolicyRule) field.ErrorList {
	errs := validateVerbs(path.Child("verbs"), r.Verbs)
	groups, resources, namespaces := path.Child("apiGroups"), path.Child("resources"), path.Child("namespaces")
	errs = append(errs, rule.If(len(r.APIGroups) == 0, field.Required(groups, "resource rules must supply at least one api group"))...)
	errs = append(errs, onlyAll(groups, r.APIGroups, "api groups")...)
	errs = append(errs, rule.If(len(r.Resources) == 0, field.Required(resources, "resource rules must supply at least one resource"))...)
	errs = append(errs, onlyAll(resources, r.Resources, "resources")...)
	errs = append(errs, rule.If(len(r.Namespaces) == 0 && !r.ClusterScope,
		field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))...)
	if slices.Contains(r.Namespaces, flowcontrolv1.NamespaceEvery) {
		return append(errs, onlyAll(namespaces, r.Namespaces, "namespaces")...)
	}
	for i, n := range r.Namespaces {
		for _, msg := range apivalidation.ValidateNamespaceName(n, false) {
			errs = append(errs, field.Invalid(namespaces.Index(i), n, "each member of this list must be '*' or a DNS-1123 label; "+msg))
		}
	}
	return errs
}

func validateNonResourceRule(path *field.Path, r *flowcontrolv1.NonResourcePolicyRule) field.ErrorList {
	errs, urls := validateVerbs(path.Child("verbs"), r.Verbs), path.Child("nonResourceURLs")
	switch {
	case len(r.NonResourceURLs) == 0:
		return append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
	case slices.Contains(r.NonResourceURLs, flowcontrolv1.NonResourceAll):
		return append(errs, onlyAll(urls, r.NonResourceURLs, "non-resource URLs")...)
	}
	for i, url := range r.NonResourceURLs {
		if wrong := urlError(url); wrong != "" {
			errs = append(errs, field.Invalid(urls.Index(i), url, wrong))
		}
	}
	return errs
}

// urlError says what is wrong with a path, which may end in "/*" for all below it.
func urlError(url string) string {
	switch stars := strings.Count(url, "*"); {
	case url == "":
		return "must not be empty"
	case !strings.HasPrefix(url, "/"):
		return "must start with slash"
	case strings.Contains(url, " "):
		return "must not contain white-space"
	case strings.Contains(url, "//"):
		return "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(url, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}
