// SPDX-License-Identifier: Apache-2.0

package clusterroleaggregation

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func role(name, label string, verbs ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": label}}}
	for _, verb := range verbs {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{Verbs: []string{verb}})
	}
	return r
}

func TestAggregate(t *testing.T) {
	admin := role("admin", "view", "old")
	admin.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{"to": "edit"}}, {MatchLabels: map[string]string{"to": "view"}},
	}}
	rules, err := aggregate(admin, []*rbacv1.ClusterRole{
		role("z", "view", "list", "get"), role("a", "view", "get"), role("e", "edit", "update"), role("x", "other", "delete"), admin,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, rule := range rules {
		got += rule.Verbs[0] + " "
	}
	if want := "update get list "; got != want { // selector by selector, roles by name, nothing twice, not itself
		t.Errorf("rules are %q, want %q", got, want)
	}
}
