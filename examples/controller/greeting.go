// SPDX-License-Identifier: Apache-2.0

// Package controller is an example: a controller made with controller-runtime, and how it is tested on Skiff's
// testenv, inside the test process, where others use envtest. It keeps a ConfigMap for every Greeting.
package controller

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

// Kind is what the controller looks after; config/crd.yaml defines it.
var Kind = schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Greeting"}

// NewGreeting is an empty one.
func NewGreeting() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(Kind)
	return u
}

// Reconciler keeps the ConfigMaps.
type Reconciler struct{ client.Client }

// SetupWithManager starts it with mgr.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).For(NewGreeting()).Owns(&corev1.ConfigMap{}).Complete(r)
}

// Reconcile writes the text of one Greeting, and says where it is.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	greeting := NewGreeting()
	if err := r.Get(ctx, req.NamespacedName, greeting); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	name, _, err := unstructured.NestedString(greeting.Object, "spec", "name")
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("read spec.name of %s: %w", req, err)
	}
	cm := &corev1.ConfigMap{}
	cm.Namespace, cm.Name = req.Namespace, req.Name
	if _, err := controllerutil.CreateOrUpdate(ctx, r.Client, cm, func() error {
		cm.Data = map[string]string{"text": "Hello, " + name + "!"}
		return controllerutil.SetControllerReference(greeting, cm, r.Scheme())
	}); err != nil {
		return ctrl.Result{}, fmt.Errorf("write ConfigMap %s: %w", req, err)
	}
	if err := unstructured.SetNestedField(greeting.Object, cm.Name, "status", "configMap"); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, r.Status().Update(ctx, greeting)
}
