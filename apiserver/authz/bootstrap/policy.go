// SPDX-License-Identifier: Apache-2.0

// Package bootstrap holds the roles and bindings that every cluster starts with, and puts them there.
//
// They are Kubernetes' own, rule for rule (policy.txt), and a few for nodes of Skiff (nodes.txt). Like upstream's server, a start adds what is
// missing to what is there and takes nothing away; an object whose annotation
// rbac.authorization.kubernetes.io/autoupdate is "false" is left alone.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings
package bootstrap

import (
	_ "embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

//go:embed policy.txt
var policyText string

//go:embed nodes.txt
var nodesText string

// Policy is a set of roles and bindings.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

// Default is the policy of a new cluster, as fresh objects.
func Default() (*Policy, error) { return parse(policyText + nodesText) }

// Upstream is the part of it that every Kubernetes has.
func Upstream() (*Policy, error) { return parse(policyText) }

const aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"

func parse(text string) (*Policy, error) {
	p := &Policy{}
	var rules *[]rbacv1.PolicyRule // of the role that the next rule belongs to
	for i, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var err error
		if fields := strings.Fields(line); line[0] == '\t' {
			err = parseRule(rules, fields)
		} else {
			rules, err = p.parseObject(fields)
		}
		if err != nil {
			return nil, fmt.Errorf("policy line %d: %w", i+1, err)
		}
	}
	return p, nil
}

// parseObject adds an object and returns where its rules go.
func (p *Policy) parseObject(fields []string) (*[]rbacv1.PolicyRule, error) {
	if len(fields) < 2 {
		return nil, fmt.Errorf("want a kind and a name, got %q", fields)
	}
	meta := objectMeta(fields[1])
	switch rest := fields[2:]; fields[0] {
	case "ClusterRole":
		role := &rbacv1.ClusterRole{ObjectMeta: meta}
		p.ClusterRoles = append(p.ClusterRoles, role)
		return &role.Rules, parseAggregation(role, rest)
	case "Role":
		role := &rbacv1.Role{ObjectMeta: meta}
		p.Roles = append(p.Roles, role)
		return &role.Rules, nil
	case "ClusterRoleBinding":
		ref, subjects, err := parseBinding(rest)
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
		return nil, err
	case "RoleBinding":
		ref, subjects, err := parseBinding(rest)
		p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects})
		return nil, err
	}
	return nil, fmt.Errorf("unknown kind %q", fields[0])
}

func objectMeta(name string) metav1.ObjectMeta {
	namespace, name := splitNamespace(name)
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func splitNamespace(s string) (namespace, name string) {
	if namespace, name, found := strings.Cut(s, "/"); found {
		return namespace, name
	}
	return "", s
}

func parseAggregation(role *rbacv1.ClusterRole, fields []string) error {
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "part-of":
			role.Labels[aggregateLabel+value] = "true"
		case "sum-of":
			role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
				{MatchLabels: map[string]string{aggregateLabel + value: "true"}}}}
		default:
			return fmt.Errorf("unknown word %q", f)
		}
	}
	return nil
}

func parseBinding(fields []string) (rbacv1.RoleRef, []rbacv1.Subject, error) {
	if len(fields) == 0 {
		return rbacv1.RoleRef{}, nil, fmt.Errorf("want the role of the binding")
	}
	kind, name, _ := strings.Cut(fields[0], "/")
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
	var subjects []rbacv1.Subject
	for _, f := range fields[1:] {
		kind, name, _ := strings.Cut(f, ":")
		s := rbacv1.Subject{Kind: kind, Name: name}
		if kind == rbacv1.ServiceAccountKind {
			s.Namespace, s.Name = splitNamespace(name)
		} else {
			s.APIGroup = rbacv1.GroupName
		}
		subjects = append(subjects, s)
	}
	return ref, subjects, nil
}

func parseRule(rules *[]rbacv1.PolicyRule, fields []string) error {
	if rules == nil || len(fields) < 3 || len(fields) > 4 {
		return fmt.Errorf("want verbs, groups, resources and perhaps names of a role, got %q", fields)
	}
	rule := rbacv1.PolicyRule{Verbs: strings.Split(fields[0], ",")}
	if fields[1] == "url" {
		rule.NonResourceURLs = strings.Split(fields[2], ",")
	} else {
		rule.APIGroups = strings.Split(fields[1], ",")
		for i, group := range rule.APIGroups {
			if group == "core" {
				rule.APIGroups[i] = ""
			}
		}
		rule.Resources = strings.Split(fields[2], ",")
	}
	if len(fields) == 4 {
		rule.ResourceNames = strings.Split(fields[3], ",")
	}
	*rules = append(*rules, rule)
	return nil
}
