// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
	"k8s.io/klog/v2"
)

// writers bounds the requests in flight; the datastore batches what arrives together.
const writers = 16

// Ensure puts the policy into the cluster: four lists, and a write for each object that lacks
// something. Several servers may do so at the same time.
func (p *Policy) Ensure(ctx context.Context, client kubernetes.Interface) error {
	e := ensurer{ctx: ctx, rbac: client.RbacV1(), namespaces: client}
	if err := e.load(); err != nil {
		return err
	}
	if err := e.ensureNamespaces(p); err != nil {
		return err
	}
	g := &errgroup.Group{}
	g.SetLimit(writers)
	for _, role := range p.ClusterRoles {
		g.Go(func() error { return e.role(reconciliation.ClusterRoleRuleOwner{ClusterRole: role}) })
	}
	for _, role := range p.Roles {
		g.Go(func() error { return e.role(reconciliation.RoleRuleOwner{Role: role}) })
	}
	for _, binding := range p.ClusterRoleBindings {
		g.Go(func() error { return e.binding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: binding}) })
	}
	for _, binding := range p.RoleBindings {
		g.Go(func() error { return e.binding(reconciliation.RoleBindingAdapter{RoleBinding: binding}) })
	}
	return g.Wait()
}

type key struct{ namespace, name string }

// ensurer reconciles against what the lists said, and against the server where that was outdated.
type ensurer struct {
	ctx        context.Context
	rbac       rbacclient.RbacV1Interface
	namespaces kubernetes.Interface

	roles    map[key]reconciliation.RuleOwner // both kinds; ClusterRoles have no namespace
	bindings map[key]reconciliation.RoleBinding
}

func (e *ensurer) load() error {
	clusterRoles, err := e.rbac.ClusterRoles().List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoles: %w", err)
	}
	roles, err := e.rbac.Roles("").List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Roles: %w", err)
	}
	clusterBindings, err := e.rbac.ClusterRoleBindings().List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	bindings, err := e.rbac.RoleBindings("").List(e.ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list RoleBindings: %w", err)
	}
	e.roles = make(map[key]reconciliation.RuleOwner, len(clusterRoles.Items)+len(roles.Items))
	e.bindings = make(map[key]reconciliation.RoleBinding, len(clusterBindings.Items)+len(bindings.Items))
	for i := range clusterRoles.Items {
		o := reconciliation.ClusterRoleRuleOwner{ClusterRole: &clusterRoles.Items[i]}
		e.roles[key{"", o.GetName()}] = o
	}
	for i := range roles.Items {
		o := reconciliation.RoleRuleOwner{Role: &roles.Items[i]}
		e.roles[key{o.GetNamespace(), o.GetName()}] = o
	}
	for i := range clusterBindings.Items {
		b := reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &clusterBindings.Items[i]}
		e.bindings[key{"", b.GetName()}] = b
	}
	for i := range bindings.Items {
		b := reconciliation.RoleBindingAdapter{RoleBinding: &bindings.Items[i]}
		e.bindings[key{b.GetNamespace(), b.GetName()}] = b
	}
	return nil
}

// ensureNamespaces makes the namespaces of roles, in case nobody else was there first.
func (e *ensurer) ensureNamespaces(p *Policy) error {
	made := map[string]bool{}
	for _, role := range p.Roles {
		if made[role.Namespace] || e.hasRoleIn(role.Namespace) {
			continue
		}
		made[role.Namespace] = true
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: role.Namespace}}
		_, err := e.namespaces.CoreV1().Namespaces().Create(e.ctx, ns, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create Namespace %s: %w", ns.Name, err)
		}
	}
	return nil
}

func (e *ensurer) hasRoleIn(namespace string) bool {
	for k := range e.roles {
		if k.namespace == namespace {
			return true
		}
	}
	return false
}

func retriable(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsServiceUnavailable(err)
}

func (e *ensurer) role(want reconciliation.RuleOwner) error {
	objects := &roleObjects{ensurer: e}
	options := reconciliation.ReconcileRoleOptions{Role: want, Client: objects, Confirm: true}
	err := retry.OnError(retry.DefaultBackoff, retriable, func() error {
		result, err := options.Run()
		if err != nil {
			objects.live = true
			return err
		}
		if result.Protected && result.Operation != reconciliation.ReconcileNone {
			klog.FromContext(e.ctx).Info("Role is protected from reconciliation and lacks permissions", "role", want.GetName(), "missing", result.MissingRules)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ensure role %s: %w", want.GetName(), err)
	}
	return nil
}

func (e *ensurer) binding(want reconciliation.RoleBinding) error {
	objects := &bindingObjects{ensurer: e}
	options := reconciliation.ReconcileRoleBindingOptions{RoleBinding: want, Client: objects, Confirm: true}
	err := retry.OnError(retry.DefaultBackoff, retriable, func() error {
		result, err := options.Run()
		if err != nil {
			objects.live = true
			return err
		}
		if result.Protected && result.Operation != reconciliation.ReconcileNone {
			klog.FromContext(e.ctx).Info("Role binding is protected from reconciliation and lacks subjects", "binding", want.GetName(), "missing", result.MissingSubjects)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("ensure role binding %s: %w", want.GetName(), err)
	}
	return nil
}

// roleObjects gives reconciliation the role from the list, and from the server once that failed.
type roleObjects struct {
	*ensurer
	live bool
}

func (o *roleObjects) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if !o.live {
		if role, ok := o.roles[key{namespace, name}]; ok {
			return role, nil
		}
		return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
	}
	if namespace == "" {
		role, err := o.rbac.ClusterRoles().Get(o.ctx, name, metav1.GetOptions{})
		return reconciliation.ClusterRoleRuleOwner{ClusterRole: role}, err
	}
	role, err := o.rbac.Roles(namespace).Get(o.ctx, name, metav1.GetOptions{})
	return reconciliation.RoleRuleOwner{Role: role}, err
}

func (o *roleObjects) Create(in reconciliation.RuleOwner) (_ reconciliation.RuleOwner, err error) {
	switch in := in.(type) {
	case reconciliation.ClusterRoleRuleOwner:
		_, err = o.rbac.ClusterRoles().Create(o.ctx, in.ClusterRole, metav1.CreateOptions{})
	case reconciliation.RoleRuleOwner:
		_, err = o.rbac.Roles(in.Role.Namespace).Create(o.ctx, in.Role, metav1.CreateOptions{})
	}
	o.live = err != nil
	return in, err
}

func (o *roleObjects) Update(in reconciliation.RuleOwner) (_ reconciliation.RuleOwner, err error) {
	switch in := in.(type) {
	case reconciliation.ClusterRoleRuleOwner:
		_, err = o.rbac.ClusterRoles().Update(o.ctx, in.ClusterRole, metav1.UpdateOptions{})
	case reconciliation.RoleRuleOwner:
		_, err = o.rbac.Roles(in.Role.Namespace).Update(o.ctx, in.Role, metav1.UpdateOptions{})
	}
	o.live = err != nil
	return in, err
}

// bindingObjects is the same for bindings.
type bindingObjects struct {
	*ensurer
	live bool
}

func (o *bindingObjects) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if !o.live {
		if binding, ok := o.bindings[key{namespace, name}]; ok {
			return binding, nil
		}
		return nil, apierrors.NewNotFound(rbacv1.Resource("rolebindings"), name)
	}
	if namespace == "" {
		binding, err := o.rbac.ClusterRoleBindings().Get(o.ctx, name, metav1.GetOptions{})
		return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: binding}, err
	}
	binding, err := o.rbac.RoleBindings(namespace).Get(o.ctx, name, metav1.GetOptions{})
	return reconciliation.RoleBindingAdapter{RoleBinding: binding}, err
}

// Delete is asked for when the role of a binding differs: it cannot be updated.
func (o *bindingObjects) Delete(namespace, name string, uid types.UID) error {
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if namespace == "" {
		return o.rbac.ClusterRoleBindings().Delete(o.ctx, name, options)
	}
	return o.rbac.RoleBindings(namespace).Delete(o.ctx, name, options)
}

func (o *bindingObjects) Create(in reconciliation.RoleBinding) (_ reconciliation.RoleBinding, err error) {
	switch in := in.(type) {
	case reconciliation.ClusterRoleBindingAdapter:
		_, err = o.rbac.ClusterRoleBindings().Create(o.ctx, in.ClusterRoleBinding, metav1.CreateOptions{})
	case reconciliation.RoleBindingAdapter:
		_, err = o.rbac.RoleBindings(in.RoleBinding.Namespace).Create(o.ctx, in.RoleBinding, metav1.CreateOptions{})
	}
	o.live = err != nil
	return in, err
}

func (o *bindingObjects) Update(in reconciliation.RoleBinding) (_ reconciliation.RoleBinding, err error) {
	switch in := in.(type) {
	case reconciliation.ClusterRoleBindingAdapter:
		_, err = o.rbac.ClusterRoleBindings().Update(o.ctx, in.ClusterRoleBinding, metav1.UpdateOptions{})
	case reconciliation.RoleBindingAdapter:
		_, err = o.rbac.RoleBindings(in.RoleBinding.Namespace).Update(o.ctx, in.RoleBinding, metav1.UpdateOptions{})
	}
	o.live = err != nil
	return in, err
}
