// SPDX-License-Identifier: Apache-2.0

// Package rootcacertpublisher keeps the ConfigMap kube-root-ca.crt in each namespace: the certificates by
// which pods verify the API server. It is mounted into each pod next to the token.
package rootcacertpublisher

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "root-ca-cert-publisher"

const (
	configMapName         = "kube-root-ca.crt"
	descriptionAnnotation = "kubernetes.io/description"
	// The words are upstream's: clients show them.
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

type controller struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	configMaps corelisters.ConfigMapLister
	data       map[string]string
	metrics    *metrics.Publisher
}

// New returns the controller that publishes rootCA, PEM certificates. Its keys are namespaces.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, rootCA []byte, measured *metrics.Publisher) reconcile.Controller {
	namespaces := factory.Core().V1().Namespaces()
	configMaps := factory.Core().V1().ConfigMaps()
	c := &controller{
		client:     client,
		namespaces: namespaces.Lister(),
		configMaps: configMaps.Lister(),
		data:       map[string]string{"ca.crt": string(rootCA)},
		metrics:    measured,
	}
	return reconcile.Controller{
		Name:      "root_ca_cert_publisher",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.Namespace](namespaces.Informer()),
			reconcile.OnAny(configMaps.Informer(), func(q reconcile.Queue, cm *corev1.ConfigMap) {
				if cm.Name == configMapName {
					q.Add(types.NamespacedName{Name: cm.Namespace})
				}
			}),
		},
	}
}

// Reconcile makes the ConfigMap of a namespace say what it should.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	start := time.Now()
	err := c.publish(ctx, key)
	c.metrics.Synced(start, err)
	return reconcile.Result{}, err
}

func (c *controller) publish(ctx context.Context, key types.NamespacedName) error {
	namespace, err := c.namespaces.Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && namespace.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	if err != nil {
		return err
	}
	current, err := c.configMaps.ConfigMaps(key.Name).Get(configMapName)
	if apierrors.IsNotFound(err) {
		return c.create(ctx, key.Name)
	}
	if err != nil || maps.Equal(current.Data, c.data) && current.Annotations[descriptionAnnotation] != "" {
		return err
	}
	updated := current.DeepCopy()
	updated.Data = c.data
	metav1.SetMetaDataAnnotation(&updated.ObjectMeta, descriptionAnnotation, description)
	if _, err := c.client.CoreV1().ConfigMaps(key.Name).Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update ConfigMap %s: %w", configMapName, err)
	}
	return nil
}

func (c *controller) create(ctx context.Context, namespace string) error {
	_, err := c.client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name:        configMapName,
			Namespace:   namespace,
			Annotations: map[string]string{descriptionAnnotation: description},
		},
		Data: c.data,
	}, metav1.CreateOptions{})
	// NotFound: the namespace went in the meantime. AlreadyExists: the event will be here soon.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create ConfigMap %s: %w", configMapName, err)
	}
	return nil
}
