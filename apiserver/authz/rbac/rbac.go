// SPDX-License-Identifier: Apache-2.0

// Package rbac decides by Roles, ClusterRoles and their bindings who may do what, lists what a user
// may do, and keeps users from granting more than they have.
//
// It reads listers and nothing else, so a decision costs no I/O; what is not in the listers yet is
// not allowed yet.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/rbac/
package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
)

// Authorizer allows what a rule allows, and has no opinion on anything else.
type Authorizer struct {
	roles               rbaclisters.RoleLister
	roleBindings        rbaclisters.RoleBindingLister
	clusterRoles        rbaclisters.ClusterRoleLister
	clusterRoleBindings rbaclisters.ClusterRoleBindingLister
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New reads roles and bindings from the shared informers.
func New(factory informers.SharedInformerFactory) *Authorizer {
	v1 := factory.Rbac().V1()
	return &Authorizer{
		roles:               v1.Roles().Lister(),
		roleBindings:        v1.RoleBindings().Lister(),
		clusterRoles:        v1.ClusterRoles().Lister(),
		clusterRoleBindings: v1.ClusterRoleBindings().Lister(),
	}
}

// Authorize looks for a rule that allows the request.
func (a *Authorizer) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	var reason string
	errs := a.visitRules(attrs.GetUser(), attrs.GetNamespace(), func(from grant, rule *rbacv1.PolicyRule) bool {
		if !allows(rule, attrs) {
			return true
		}
		reason = "RBAC: allowed by " + from.String()
		return false
	})
	switch {
	case reason != "":
		return authorizer.DecisionAllow, reason, nil
	case len(errs) > 0:
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(errs)), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize is Authorize: RBAC knows no conditions.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attrs))
}

// EvaluateConditions is never asked for.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor lists what the user may do in a namespace.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	rules, err := a.rules(u, namespace)
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, paths, false, err
}

func (a *Authorizer) rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	errs := a.visitRules(u, namespace, func(_ grant, rule *rbacv1.PolicyRule) bool {
		rules = append(rules, *rule)
		return true
	})
	return rules, utilerrors.NewAggregate(errs)
}

// grant is the binding and the subject in it through which a user holds a rule.
type grant struct {
	kind, name, namespace string // of the binding
	role                  rbacv1.RoleRef
	subject               rbacv1.Subject
}

func (g grant) String() string {
	binding, subject := g.name, g.subject.Name
	if g.namespace != "" {
		binding += "/" + g.namespace
	}
	if g.subject.Kind == rbacv1.ServiceAccountKind {
		namespace := g.subject.Namespace
		if namespace == "" {
			namespace = g.namespace
		}
		subject += "/" + namespace
	}
	return fmt.Sprintf("%s %q of %s %q to %s %q", g.kind, binding, g.role.Kind, g.role.Name, g.subject.Kind, subject)
}

// visitRules calls visit with every rule that the user holds in the namespace, cluster-wide ones
// first, until visit returns false. Roles that are not there are errors, and do not stop it.
func (a *Authorizer) visitRules(u user.Info, namespace string, visit func(grant, *rbacv1.PolicyRule) bool) []error {
	var errs []error
	each := func(g grant, subjects []rbacv1.Subject) bool {
		i := slices.IndexFunc(subjects, func(s rbacv1.Subject) bool { return isSubject(u, &s, g.namespace) })
		if i < 0 {
			return true
		}
		g.subject = subjects[i]
		rules, err := a.RoleRules(g.role, g.namespace)
		if err != nil {
			errs = append(errs, err)
			return true
		}
		for i := range rules {
			if !visit(g, &rules[i]) {
				return false
			}
		}
		return true
	}
	clusterBindings, err := a.clusterRoleBindings.List(labels.Everything())
	if err != nil {
		errs = append(errs, err)
	}
	for _, b := range clusterBindings {
		if !each(grant{kind: "ClusterRoleBinding", name: b.Name, role: b.RoleRef}, b.Subjects) {
			return errs
		}
	}
	if namespace == "" {
		return errs
	}
	bindings, err := a.roleBindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil {
		errs = append(errs, err)
	}
	for _, b := range bindings {
		if !each(grant{kind: "RoleBinding", name: b.Name, namespace: namespace, role: b.RoleRef}, b.Subjects) {
			return errs
		}
	}
	return errs
}

// RoleRules are the rules of the role that a binding in the namespace names.
func (a *Authorizer) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		role, err := a.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := a.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

func isSubject(u user.Info, s *rbacv1.Subject, bindingNamespace string) bool {
	switch s.Kind {
	case rbacv1.UserKind:
		return u.GetName() == s.Name
	case rbacv1.GroupKind:
		return slices.Contains(u.GetGroups(), s.Name)
	case rbacv1.ServiceAccountKind:
		namespace := s.Namespace
		if namespace == "" {
			namespace = bindingNamespace
		}
		return namespace != "" && serviceaccount.MatchesUsername(namespace, s.Name, u.GetName())
	}
	return false
}

// allows tells whether one rule covers the request.
func allows(rule *rbacv1.PolicyRule, attrs authorizer.Attributes) bool {
	if !containsOrAll(rule.Verbs, attrs.GetVerb()) {
		return false
	}
	if !attrs.IsResourceRequest() {
		return allowsPath(rule.NonResourceURLs, attrs.GetPath())
	}
	return containsOrAll(rule.APIGroups, attrs.GetAPIGroup()) &&
		allowsResource(rule.Resources, attrs.GetResource(), attrs.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, attrs.GetName()))
}

func containsOrAll(list []string, s string) bool {
	return slices.ContainsFunc(list, func(v string) bool { return v == "*" || v == s })
}

// allowsResource matches "*", "pods", "pods/log" and "*/log".
func allowsResource(allowed []string, resource, subresource string) bool {
	if subresource == "" {
		return containsOrAll(allowed, resource)
	}
	return slices.ContainsFunc(allowed, func(v string) bool {
		r, s, found := strings.Cut(v, "/")
		return v == "*" || found && s == subresource && (r == "*" || r == resource)
	})
}

// allowsPath matches "/healthz", "/apis/*" and "*".
func allowsPath(allowed []string, path string) bool {
	return slices.ContainsFunc(allowed, func(v string) bool {
		return v == path || strings.HasSuffix(v, "*") && strings.HasPrefix(path, strings.TrimRight(v, "*"))
	})
}

// Allows tells whether one of the rules covers the request.
func Allows(rules []rbacv1.PolicyRule, attrs authorizer.Attributes) bool {
	for i := range rules {
		if allows(&rules[i], attrs) {
			return true
		}
	}
	return false
}
