// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/component-helpers/auth/rbac/validation"
	"k8s.io/klog/v2"
)

// Guard keeps users from giving themselves or others rights that they do not hold: who writes a
// role must hold its rules or the verb "escalate" on it, who writes a binding must hold the rules of
// its role or the verb "bind" on that role.
type Guard struct {
	Rules      *Authorizer
	Authorizer authorizer.UnconditionalAuthorizer // the whole chain, asked about escalate and bind
}

// Check says Forbidden if the user of the request may not write obj, which is one of the four RBAC
// kinds. old is nil for a create.
func (g *Guard) Check(ctx context.Context, obj, old runtime.Object) error {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return errors.New("no user on context")
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) || old != nil && onlyChangesOwnership(obj, old) {
		return nil
	}
	switch obj := obj.(type) {
	case *rbacv1.Role:
		return g.checkRole(ctx, u, "roles", obj.Namespace, obj.Name, obj.Rules, false)
	case *rbacv1.ClusterRole:
		before, _ := old.(*rbacv1.ClusterRole)
		return g.checkRole(ctx, u, "clusterroles", "", obj.Name, obj.Rules, aggregates(obj) || aggregates(before))
	case *rbacv1.RoleBinding:
		return g.checkBinding(ctx, u, "rolebindings", obj.Namespace, obj.Name, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return g.checkBinding(ctx, u, "clusterrolebindings", "", obj.Name, obj.RoleRef)
	}
	return nil
}

func aggregates(role *rbacv1.ClusterRole) bool {
	return role != nil && role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

// everything is what an aggregating role may grow to.
func everything() []rbacv1.PolicyRule {
	all := []string{"*"}
	return []rbacv1.PolicyRule{{Verbs: all, APIGroups: all, Resources: all}, {Verbs: all, NonResourceURLs: all}}
}

func (g *Guard) checkRole(ctx context.Context, u user.Info, resource, namespace, name string, rules []rbacv1.PolicyRule, aggregated bool) error {
	if g.allowed(ctx, u, "escalate", resource, namespace, requestName(ctx)) {
		return nil
	}
	if err := g.covers(u, namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(resource), name, err)
	}
	if aggregated && g.covers(u, namespace, everything()) != nil {
		return apierrors.NewForbidden(rbacv1.Resource(resource), name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (g *Guard) checkBinding(ctx context.Context, u user.Info, resource, namespace, name string, ref rbacv1.RoleRef) error {
	roles := map[string]string{"Role": "roles", "ClusterRole": "clusterroles"}[ref.Kind]
	if roles != "" && g.allowed(ctx, u, "bind", roles, namespace, ref.Name) {
		return nil
	}
	rules, err := g.Rules.RoleRules(ref, namespace)
	if err != nil {
		return err
	}
	if err := g.covers(u, namespace, rules); err != nil {
		return apierrors.NewForbidden(rbacv1.Resource(resource), name, err)
	}
	return nil
}

func requestName(ctx context.Context) string {
	if info, ok := request.RequestInfoFrom(ctx); ok {
		return info.Name
	}
	return ""
}

func (g *Guard) allowed(ctx context.Context, u user.Info, verb, resource, namespace, name string) bool {
	decision, _, err := g.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*",
		Resource: resource, Namespace: namespace, Name: name, ResourceRequest: true,
	})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Authorizing a role change", "user", u.GetName(), "verb", verb, "resource", resource, "name", name)
	}
	return decision == authorizer.DecisionAllow
}

// covers is nil if the user holds all the rules in the namespace.
func (g *Guard) covers(u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	held, resolveErr := g.Rules.rules(u, namespace)
	ok, missing := validation.Covers(held, rules)
	if ok {
		return nil
	}
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(describe(missing), "\n"))
	if resolveErr != nil {
		msg += fmt.Sprintf("; resolution errors: %v", []error{resolveErr})
	}
	return errors.New(msg)
}

// describe puts single rights on as few lines as possible, in order.
func describe(rights []rbacv1.PolicyRule) []string {
	byTarget := map[string]*rbacv1.PolicyRule{}
	for _, r := range rights {
		target := r.DeepCopy()
		target.Verbs = nil
		key := compact(target)
		if same := byTarget[key]; same != nil {
			same.Verbs = append(same.Verbs, r.Verbs...)
		} else {
			byTarget[key] = r.DeepCopy()
		}
	}
	var lines []string
	for _, r := range byTarget {
		lines = append(lines, compact(r))
	}
	slices.Sort(lines)
	return lines
}

func compact(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(f.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", f.name, f.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// onlyChangesOwnership lets the garbage collector do its work without holding what the object grants.
func onlyChangesOwnership(obj, old runtime.Object) bool {
	changed := obj.DeepCopyObject()
	to, err := meta.Accessor(changed)
	if err != nil {
		return false
	}
	from, err := meta.Accessor(old)
	if err != nil {
		return false
	}
	to.SetOwnerReferences(from.GetOwnerReferences())
	to.SetFinalizers(from.GetFinalizers())
	to.SetManagedFields(from.GetManagedFields())
	return equality.Semantic.DeepEqual(changed, old)
}
