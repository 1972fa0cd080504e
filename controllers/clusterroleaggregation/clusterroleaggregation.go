// SPDX-License-Identifier: Apache-2.0

// Package clusterroleaggregation fills ClusterRoles that have an aggregationRule with the rules of the ClusterRoles
// that the rule selects.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles
package clusterroleaggregation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	applyrbacv1 "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, and the manager of the rules that it applies.
const Name = "clusterrole-aggregation-controller"

type controller struct {
	client kubernetes.Interface
	roles  rbaclisters.ClusterRoleLister
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	roles := factory.Rbac().V1().ClusterRoles()
	c := &controller{client: client, roles: roles.Lister()}
	return reconcile.Controller{
		Name:      "ClusterRoleAggregator",
		Reconcile: c.Reconcile,
		Watches:   []reconcile.Watch{reconcile.OnAny(roles.Informer(), c.roleChanged)},
	}
}

// roleChanged queues all aggregated roles: any of them may select, or have selected, the one that changed.
func (c *controller) roleChanged(q reconcile.Queue, _ *rbacv1.ClusterRole) {
	roles, err := c.roles.List(labels.Everything())
	if err != nil {
		return
	}
	for _, role := range roles {
		if role.AggregationRule != nil {
			q.Add(reconcile.KeyOf(role))
		}
	}
}

// Reconcile gives a role the rules of those that it selects.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	role, err := c.roles.Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	all, err := c.roles.List(labels.Everything())
	if err != nil {
		return reconcile.Result{}, err
	}
	rules, err := aggregate(role, all)
	if err != nil {
		return reconcile.Result{}, err
	}
	if apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return reconcile.Result{}, nil
	}
	applied := applyrbacv1.ClusterRole(role.Name)
	for _, rule := range rules {
		applied = applied.WithRules(applyrbacv1.PolicyRule().
			WithVerbs(rule.Verbs...).WithAPIGroups(rule.APIGroups...).WithResources(rule.Resources...).
			WithResourceNames(rule.ResourceNames...).WithNonResourceURLs(rule.NonResourceURLs...))
	}
	if len(rules) == 0 {
		applied.Rules = []applyrbacv1.PolicyRuleApplyConfiguration{}
	}
	_, err = c.client.RbacV1().ClusterRoles().Apply(ctx, applied, metav1.ApplyOptions{FieldManager: Name, Force: true})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("apply aggregated rules: %w", err)
	}
	return reconcile.Result{}, nil
}

// aggregate returns the rules of the roles that role selects, each once: selector by selector, the roles by name.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	rules := []rbacv1.PolicyRule{}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, other := range all {
			if other.Name == role.Name || !selector.Matches(labels.Set(other.Labels)) {
				continue
			}
			for _, rule := range other.Rules {
				known := slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(r, rule) })
				if !known {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
