// SPDX-License-Identifier: Apache-2.0

// Package authz decides who may do what: members of system:masters everything, kubelets what their
// node needs (package node), everybody what roles give them (package rbac). Who is allowed by none of
// them is not allowed.
package authz

import (
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/authz/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/authz/node"
	"github.com/skiff-k8s/skiff/apiserver/authz/rbac"
)

// Authz answers all questions about permissions.
type Authz struct {
	authorizer.Authorizer
	authorizer.RuleResolver

	Guard  *rbac.Guard       // asked before a role or binding is written
	Policy *bootstrap.Policy // put into the cluster at start: Policy.Ensure(ctx, client)
}

// New reads from the shared informers, and must be called before they start. client is for what is
// asked for rarely.
func New(factory informers.SharedInformerFactory, client kubernetes.Interface) (*Authz, error) {
	policy, err := bootstrap.Default()
	if err != nil {
		return nil, err
	}
	rules, err := nodeRules(policy)
	if err != nil {
		return nil, err
	}
	nodes, err := node.New(factory, client, rules)
	if err != nil {
		return nil, err
	}
	roles := rbac.New(factory)
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "system:masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "Node", Authorizer: nodes},
		union.NamedAuthorizer{AuthorizerName: "RBAC", Authorizer: roles},
	)
	if err != nil {
		return nil, err
	}
	return &Authz{
		Authorizer:   all,
		RuleResolver: union.NewRuleResolvers(nodes, roles),
		Guard:        &rbac.Guard{Rules: roles, Authorizer: all},
		Policy:       policy,
	}, nil
}

func nodeRules(p *bootstrap.Policy) ([]rbacv1.PolicyRule, error) {
	for _, role := range p.ClusterRoles {
		if role.Name == "system:node" {
			return role.Rules, nil
		}
	}
	return nil, fmt.Errorf("the bootstrap policy has no ClusterRole system:node")
}
