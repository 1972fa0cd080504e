// SPDX-License-Identifier: Apache-2.0

// Package authz decides who may do what: members of system:masters everything, kubelets what their
// node needs (package node), everybody what roles give them (package rbac). Who is allowed by none of
// them is not allowed. A file may name another order, and webhooks to be asked (configured.go), or the flags of old
// (flags.go), which know of policies in a file, too (package abac).
package authz

import (
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/authz/bootstrap"
	"github.com/skiff-k8s/skiff/apiserver/authz/node"
	"github.com/skiff-k8s/skiff/apiserver/authz/rbac"
)

// Authz answers all questions about permissions.
type Authz struct {
	current

	Guard  *rbac.Guard       // asked before a role or binding is written
	Policy *bootstrap.Policy // put into the cluster at start: Policy.Ensure(ctx, client)

	builtIn map[apiserver.AuthorizerType]answerer
	file    *file // nil if nothing was configured
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
	core, v1 := factory.Core().V1(), factory.Rbac().V1()
	a := &Authz{Policy: policy, builtIn: map[apiserver.AuthorizerType]answerer{
		typeNode: newAfterSync(nodes, core.Pods().Informer(), core.PersistentVolumes().Informer()),
		typeRBAC: newAfterSync(roles,
			v1.Roles().Informer(), v1.RoleBindings().Informer(), v1.ClusterRoles().Informer(), v1.ClusterRoleBindings().Informer()),
		typeAlwaysAllow: authorizerfactory.NewAlwaysAllowAuthorizer(),
		typeAlwaysDeny:  authorizerfactory.NewAlwaysDenyAuthorizer(),
	}}
	a.Guard = &rbac.Guard{Rules: roles, Authorizer: a}
	return a, a.arrange(byDefault(), nil)
}

func nodeRules(p *bootstrap.Policy) ([]rbacv1.PolicyRule, error) {
	for _, role := range p.ClusterRoles {
		if role.Name == "system:node" {
			return role.Rules, nil
		}
	}
	return nil, fmt.Errorf("the bootstrap policy has no ClusterRole system:node")
}
