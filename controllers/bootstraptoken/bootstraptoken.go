// SPDX-License-Identifier: Apache-2.0

// Package bootstraptoken keeps the tokens by which machines join: it deletes those whose time has passed, and signs
// with the others what joining machines read first, the ConfigMap cluster-info in kube-public.
//
// They are two controllers, each with upstream's identity, on one watch: of the Secrets that are such tokens, and
// not of all Secrets.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
package bootstraptoken

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	"k8s.io/cluster-bootstrap/util/secrets"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// The controllers' identities.
const (
	CleanerName = "token-cleaner"
	SignerName  = "bootstrap-signer"
)

var clusterInfo = types.NamespacedName{Namespace: metav1.NamespacePublic, Name: bootstrapapi.ConfigMapClusterInfo}

type controller struct {
	cleaner, signer kubernetes.Interface
	configMaps      corelisters.ConfigMapLister
	tokens          atomic.Pointer[corelisters.SecretLister] // of Loop, once it knows all tokens
}

// New returns the controllers. cleaner and signer act under their names.
func New(cleaner, signer kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	return newController(cleaner, signer, factory).declare(factory)
}

func newController(cleaner, signer kubernetes.Interface, factory informers.SharedInformerFactory) *controller {
	return &controller{cleaner: cleaner, signer: signer, configMaps: factory.Core().V1().ConfigMaps().Lister()}
}

func (c *controller) declare(factory informers.SharedInformerFactory) reconcile.Controller {
	return reconcile.Controller{
		Name:      "token_cleaner",
		Reconcile: c.Reconcile,
		Workers:   1,
		Loop:      c.watchTokens,
		Watches: []reconcile.Watch{
			reconcile.On(factory.Core().V1().ConfigMaps().Informer(), func(q reconcile.Queue, _, new *corev1.ConfigMap) {
				if new != nil && reconcile.KeyOf(new) == clusterInfo && c.tokens.Load() != nil {
					q.Add(clusterInfo)
				}
			}),
		},
	}
}

// watchTokens queues tokens as they come and change, and with them what they sign.
func (c *controller) watchTokens(ctx context.Context, q reconcile.Queue) error {
	informer := coreinformers.NewFilteredSecretInformer(c.cleaner, metav1.NamespaceSystem, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(bootstrapapi.SecretTypeBootstrapToken)).String()
	})
	changed := func(obj any) {
		if secret, ok := obj.(*corev1.Secret); ok {
			q.Add(reconcile.KeyOf(secret))
		}
		q.Add(clusterInfo)
	}
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { informer.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil
	}
	lister := corelisters.NewSecretLister(informer.GetIndexer())
	c.tokens.Store(&lister)
	defer c.tokens.Store(nil)
	q.Add(clusterInfo)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) }, DeleteFunc: changed}); err != nil {
		return fmt.Errorf("watch tokens: %w", err)
	}
	<-ctx.Done()
	return nil
}

// Reconcile looks at a token, or at cluster-info.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	tokens := c.tokens.Load()
	if tokens == nil {
		return reconcile.Result{}, nil // we end
	}
	if key == clusterInfo {
		return reconcile.Result{}, c.sign(ctx, *tokens)
	}
	token, err := (*tokens).Secrets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	return c.clean(ctx, token)
}

// clean deletes a token that has expired, or asks to see it again when it will have.
func (c *controller) clean(ctx context.Context, token *corev1.Secret) (reconcile.Result, error) {
	left, expired := secrets.GetExpiration(token, time.Now())
	if !expired {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	err := c.cleaner.CoreV1().Secrets(token.Namespace).Delete(ctx, token.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &token.UID}})
	// Conflict: it was made anew.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return reconcile.Result{}, fmt.Errorf("delete the expired token: %w", err)
	}
	return reconcile.Result{}, nil
}

// sign makes the signatures in cluster-info those of the tokens that there are.
func (c *controller) sign(ctx context.Context, tokens corelisters.SecretLister) error {
	info, err := c.configMaps.ConfigMaps(clusterInfo.Namespace).Get(clusterInfo.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	content, ok := info.Data[bootstrapapi.KubeConfigKey]
	if !ok {
		return nil // not what we know; whoever wrote it has a reason
	}
	signed := maps.Clone(info.Data)
	maps.DeleteFunc(signed, func(key, _ string) bool { return strings.HasPrefix(key, bootstrapapi.JWSSignatureKeyPrefix) })
	all, err := tokens.Secrets(metav1.NamespaceSystem).List(labels.Everything())
	if err != nil {
		return err
	}
	for _, token := range all {
		id, key, ok := signingKey(token, time.Now())
		if !ok {
			continue
		}
		signature, err := jws.ComputeDetachedSignature(content, id, key)
		if err != nil {
			return fmt.Errorf("sign cluster-info with token %s: %w", id, err)
		}
		signed[bootstrapapi.JWSSignatureKeyPrefix+id] = signature
	}
	if maps.Equal(signed, info.Data) {
		return nil
	}
	updated := info.DeepCopy()
	updated.Data = signed
	if _, err := c.signer.CoreV1().ConfigMaps(updated.Namespace).Update(ctx, updated, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the signatures of cluster-info: %w", err)
	}
	return nil
}

// signingKey is what a token signs with, if it is whole, in its time and meant for that.
func signingKey(token *corev1.Secret, now time.Time) (id, key string, ok bool) {
	name, named := secrets.ParseName(token.Name)
	id, key = secrets.GetData(token, bootstrapapi.BootstrapTokenIDKey), secrets.GetData(token, bootstrapapi.BootstrapTokenSecretKey)
	meant := secrets.GetData(token, bootstrapapi.BootstrapTokenUsageSigningKey) == "true"
	return id, key, named && id == name && id != "" && key != "" && meant && !secrets.HasExpired(token, now)
}
