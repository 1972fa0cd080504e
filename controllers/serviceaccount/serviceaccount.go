// SPDX-License-Identifier: Apache-2.0

// Package serviceaccount makes the ServiceAccount "default" in each namespace, without which no pod can be created.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#serviceaccount-controller
package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "service-account-controller"

const defaultAccount = "default"

type controller struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
}

// New returns the controller. Its keys are namespaces.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	namespaces := factory.Core().V1().Namespaces()
	accounts := factory.Core().V1().ServiceAccounts()
	c := &controller{client: client, namespaces: namespaces.Lister(), accounts: accounts.Lister()}
	return reconcile.Controller{
		Name:      "serviceaccount",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.Namespace](namespaces.Informer()),
			reconcile.On(accounts.Informer(), func(q reconcile.Queue, old, new *corev1.ServiceAccount) {
				if new == nil && old.Name == defaultAccount {
					q.Add(types.NamespacedName{Name: old.Namespace})
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{accounts.Informer()},
	}
}

// Reconcile makes the account if the namespace lives and does not have it.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	namespace, err := c.namespaces.Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && namespace.Status.Phase != corev1.NamespaceActive {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	_, err = c.accounts.ServiceAccounts(namespace.Name).Get(defaultAccount)
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultAccount, Namespace: namespace.Name}}
	_, err = c.client.CoreV1().ServiceAccounts(namespace.Name).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return reconcile.Result{}, fmt.Errorf("create ServiceAccount %q: %w", defaultAccount, err)
	}
	return reconcile.Result{}, nil
}
