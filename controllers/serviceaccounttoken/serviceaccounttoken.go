// SPDX-License-Identifier: Apache-2.0

// Package serviceaccounttoken keeps Secrets of type kubernetes.io/service-account-token: the tokens without an end that
// pods had before TokenRequest, and that people still make for programs outside of the cluster.
//
// Such a Secret is filled with a token, the namespace and the CA; it goes with its ServiceAccount, and the account's
// reference to it goes with the Secret. Secrets that were made for accounts unasked, as old versions did, are marked
// and then deleted when nobody has used them for a year (clean.go). Only these Secrets are watched, not all.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
package serviceaccounttoken

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// CleanerName is the identity under which old tokens are deleted. Tokens are made by system:kube-controller-manager
// itself, as upstream does it.
const CleanerName = "legacy-service-account-token-cleaner"

// Deps is what the controller works with.
type Deps struct {
	// Client acts as system:kube-controller-manager, Cleaner as CleanerName.
	Client, Cleaner kubernetes.Interface
	// Issue makes a token for the account that is bound to the Secret.
	Issue func(*corev1.ServiceAccount, *corev1.Secret) (string, error)
	// RootCA is what the Secrets say the API server can be verified by.
	RootCA []byte
}

type controller struct {
	Deps
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	secrets  atomic.Pointer[corelisters.SecretLister] // of Loop, once it knows all

	mu   sync.Mutex
	gone map[types.NamespacedName]string // accounts of Secrets that are gone; guarded by mu
}

// cleaning is the key under which old tokens are looked for.
var cleaning = types.NamespacedName{Name: "clean"}

// New returns the controller.
func New(deps Deps, factory informers.SharedInformerFactory) reconcile.Controller {
	accounts := factory.Core().V1().ServiceAccounts()
	pods := factory.Core().V1().Pods()
	c := &controller{Deps: deps, accounts: accounts.Lister(), pods: pods.Lister(), gone: map[types.NamespacedName]string{}}
	return reconcile.Controller{
		Name:      "serviceaccount_tokens",
		Reconcile: c.Reconcile,
		Loop:      c.watch,
		Watches: []reconcile.Watch{
			reconcile.On(accounts.Informer(), func(q reconcile.Queue, old, new *corev1.ServiceAccount) {
				if new == nil {
					c.enqueueTokensOf(q, old)
				}
			}),
		},
		Reads: []cache.SharedIndexInformer{pods.Informer()},
	}
}

// watch queues Secrets as they come, change and go.
func (c *controller) watch(ctx context.Context, q reconcile.Queue) error {
	informer := coreinformers.NewFilteredSecretInformer(c.Client, metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
	})
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { informer.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	lister := corelisters.NewSecretLister(informer.GetIndexer())
	c.secrets.Store(&lister)
	defer c.secrets.Store(nil)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			q.Add(reconcile.KeyOf(obj.(*corev1.Secret)))
			q.Add(cleaning)
		},
		UpdateFunc: func(_, obj any) { q.Add(reconcile.KeyOf(obj.(*corev1.Secret))) },
		DeleteFunc: func(obj any) { c.deleted(q, obj) },
	}); err != nil {
		return fmt.Errorf("watch token Secrets: %w", err)
	}
	<-ctx.Done()
	return nil
}

func (c *controller) deleted(q reconcile.Queue, obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if secret, ok := obj.(*corev1.Secret); ok {
		c.mu.Lock()
		c.gone[reconcile.KeyOf(secret)] = accountOf(secret)
		c.mu.Unlock()
		q.Add(reconcile.KeyOf(secret))
	}
}

func (c *controller) enqueueTokensOf(q reconcile.Queue, account *corev1.ServiceAccount) {
	lister := c.secrets.Load()
	if lister == nil {
		return // all are queued when they are known
	}
	secrets, err := (*lister).Secrets(account.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, secret := range secrets {
		if accountOf(secret) == account.Name {
			q.Add(reconcile.KeyOf(secret))
		}
	}
}

func accountOf(secret *corev1.Secret) string { return secret.Annotations[corev1.ServiceAccountNameKey] }

// Reconcile looks at one Secret, or at all old ones.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	lister := c.secrets.Load()
	if lister == nil {
		return reconcile.Result{}, nil // we end
	}
	if key == cleaning {
		return c.clean(ctx, *lister)
	}
	secret, err := (*lister).Secrets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, c.unreference(ctx, key)
	}
	if err != nil || accountOf(secret) == "" {
		return reconcile.Result{}, err
	}
	account, err := c.account(ctx, secret)
	if err != nil {
		return reconcile.Result{}, err
	}
	if account == nil {
		return reconcile.Result{}, c.remove(ctx, secret)
	}
	return reconcile.Result{}, c.fill(ctx, account, secret)
}

// account returns the ServiceAccount of a Secret, nil if it is gone. It may be newer than the cache.
func (c *controller) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	name, uid := accountOf(secret), secret.Annotations[corev1.ServiceAccountUIDKey]
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !isUID(account, uid) {
		account, err = c.Client.CoreV1().ServiceAccounts(secret.Namespace).Get(ctx, name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) || err == nil && !isUID(account, uid) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get ServiceAccount %s/%s: %w", secret.Namespace, name, err)
	}
	return account, nil
}

func isUID(account *corev1.ServiceAccount, uid string) bool {
	return uid == "" || uid == string(account.UID)
}

func (c *controller) remove(ctx context.Context, secret *corev1.Secret) error {
	err := c.Client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete the token of a ServiceAccount that is gone: %w", err)
	}
	return nil
}

// fill puts into the Secret what is missing.
func (c *controller) fill(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	hasCA := len(c.RootCA) == 0 || bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.RootCA)
	hasNamespace, hasToken := len(secret.Data[corev1.ServiceAccountNamespaceKey]) > 0, len(secret.Data[corev1.ServiceAccountTokenKey]) > 0
	if hasCA && hasNamespace && hasToken {
		return nil
	}
	filled := secret.DeepCopy()
	if filled.Data == nil {
		filled.Data = map[string][]byte{}
	}
	if !hasCA {
		filled.Data[corev1.ServiceAccountRootCAKey] = c.RootCA
	}
	if !hasNamespace {
		filled.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if !hasToken {
		token, err := c.Issue(account, secret)
		if err != nil {
			return fmt.Errorf("make a token: %w", err)
		}
		filled.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	filled.Annotations[corev1.ServiceAccountNameKey] = account.Name
	filled.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	_, err := c.Client.CoreV1().Secrets(secret.Namespace).Update(ctx, filled, metav1.UpdateOptions{})
	// Conflict: somebody has changed it, and that change queues it again.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("fill token Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}

// unreference takes a Secret that is gone out of its ServiceAccount.
func (c *controller) unreference(ctx context.Context, key types.NamespacedName) error {
	c.mu.Lock()
	name, ok := c.gone[key]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	account, err := c.accounts.ServiceAccounts(key.Namespace).Get(name)
	if err == nil && refersTo(account, key.Name) {
		changed := account.DeepCopy()
		changed.Secrets = slices.DeleteFunc(changed.Secrets, func(s corev1.ObjectReference) bool { return s.Name == key.Name })
		_, err = c.Client.CoreV1().ServiceAccounts(key.Namespace).Update(ctx, changed, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take Secret %s out of ServiceAccount %s: %w", key, name, err)
	}
	c.mu.Lock()
	delete(c.gone, key)
	c.mu.Unlock()
	return nil
}

func refersTo(account *corev1.ServiceAccount, secret string) bool {
	return slices.ContainsFunc(account.Secrets, func(s corev1.ObjectReference) bool { return s.Name == secret })
}
