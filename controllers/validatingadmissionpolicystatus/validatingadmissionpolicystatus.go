// SPDX-License-Identifier: Apache-2.0

// Package validatingadmissionpolicystatus tells authors of ValidatingAdmissionPolicies which of their CEL
// expressions do not fit the types that they are about.
//
// The check itself is k8s.io/apiserver's. It needs the schemas of the types, which come from the API's own OpenAPI
// documents; nothing asks for them before the first policy exists.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/#type-checking
package validatingadmissionpolicystatus

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	admissionregistrationapply "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	admissionregistrationlisters "k8s.io/client-go/listers/admissionregistration/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "validatingadmissionpolicy-status-controller"

// fieldManager owns the status, under the name that upstream gives it.
const fieldManager = "validatingadmissionpolicy-status"

type controller struct {
	client   kubernetes.Interface
	policies admissionregistrationlisters.ValidatingAdmissionPolicyLister
	checker  validating.TypeChecker
}

// New returns the controller.
func New(client kubernetes.Interface, disco discovery.DiscoveryInterface, mapper meta.RESTMapper, factory informers.SharedInformerFactory) reconcile.Controller {
	policies := factory.Admissionregistration().V1().ValidatingAdmissionPolicies()
	c := &controller{
		client: client, policies: policies.Lister(),
		checker: validating.TypeChecker{SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: disco}, RestMapper: mapper},
	}
	return reconcile.Controller{
		Name:      "validatingadmissionpolicy-status",
		Reconcile: c.Reconcile,
		Watches:   []reconcile.Watch{reconcile.OnSelf[*admissionregistrationv1.ValidatingAdmissionPolicy](policies.Informer())},
	}
}

// Reconcile checks a policy whose spec has changed since it was checked last.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	policy, err := c.policies.Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && policy.Generation <= policy.Status.ObservedGeneration {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	checking := admissionregistrationapply.TypeChecking()
	for _, warning := range c.checker.Check(policy) {
		checking.WithExpressionWarnings(admissionregistrationapply.ExpressionWarning().WithFieldRef(warning.FieldRef).WithWarning(warning.Warning))
	}
	status := admissionregistrationapply.ValidatingAdmissionPolicyStatus().WithObservedGeneration(policy.Generation).WithTypeChecking(checking)
	_, err = c.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().ApplyStatus(ctx,
		admissionregistrationapply.ValidatingAdmissionPolicy(policy.Name).WithStatus(status), metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("set the status of ValidatingAdmissionPolicy %s: %w", policy.Name, err)
	}
	return reconcile.Result{}, nil
}
