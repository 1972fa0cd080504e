// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"

	"github.com/skiff-k8s/skiff/apiserver/authz/bootstrap"
)

// The roles and bindings of a new cluster are those of Kubernetes, right for right.
func TestBootstrapPolicy(t *testing.T) {
	policy, err := bootstrap.Upstream()
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := map[string]string{}, map[string]string{}
	for _, r := range policy.ClusterRoles {
		ours["ClusterRole "+r.Name] = clusterRole(r)
	}
	for _, b := range policy.ClusterRoleBindings {
		ours["ClusterRoleBinding "+b.Name] = binding(b.RoleRef, b.Subjects)
	}
	for _, r := range policy.Roles {
		ours["Role "+r.Namespace+"/"+r.Name] = rights(r.Rules)
	}
	for _, b := range policy.RoleBindings {
		ours["RoleBinding "+b.Namespace+"/"+b.Name] = binding(b.RoleRef, b.Subjects)
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		theirs["ClusterRole "+r.Name] = clusterRole(&r)
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		theirs["ClusterRoleBinding "+b.Name] = binding(b.RoleRef, b.Subjects)
	}
	for namespace, roles := range bootstrappolicy.NamespaceRoles() {
		for _, r := range roles {
			theirs["Role "+namespace+"/"+r.Name] = rights(r.Rules)
		}
	}
	for namespace, bindings := range bootstrappolicy.NamespaceRoleBindings() {
		for _, b := range bindings {
			theirs["RoleBinding "+namespace+"/"+b.Name] = binding(b.RoleRef, b.Subjects)
		}
	}
	all := maps.Clone(ours)
	maps.Copy(all, theirs)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		here, isHere := ours[name]
		there, isThere := theirs[name]
		switch {
		case !isHere:
			t.Errorf("%s is missing", name)
		case !isThere:
			t.Errorf("%s is not Kubernetes'", name)
		case here != there:
			t.Errorf("%s (- Skiff, + Kubernetes):\n%s", name, lineDiff(here, there))
		}
	}
}

func clusterRole(r *rbacv1.ClusterRole) string {
	out := rights(r.Rules)
	for _, label := range slices.Sorted(maps.Keys(r.Labels)) {
		out += fmt.Sprintf("\nlabel %s=%s", label, r.Labels[label])
	}
	if r.AggregationRule != nil {
		out += fmt.Sprintf("\nsum of %v", r.AggregationRule.ClusterRoleSelectors)
	}
	return out
}

// rights has a line for each thing that rules allow.
func rights(rules []rbacv1.PolicyRule) string {
	lines := map[string]bool{}
	for _, r := range rules {
		for _, verb := range r.Verbs {
			for _, path := range r.NonResourceURLs {
				lines[verb+" "+path] = true
			}
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					lines[fmt.Sprintf("%s %s/%s %v", verb, group, resource, r.ResourceNames)] = true
				}
			}
		}
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "\n")
}

func binding(ref rbacv1.RoleRef, subjects []rbacv1.Subject) string {
	lines := []string{"of " + ref.Kind + " " + ref.Name}
	for _, s := range subjects {
		lines = append(lines, fmt.Sprintf("to %s %s/%s", s.Kind, s.Namespace, s.Name))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
