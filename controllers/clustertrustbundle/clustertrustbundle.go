// SPDX-License-Identifier: Apache-2.0

// Package clustertrustbundle publishes the CA of the API server's certificate as a ClusterTrustBundle of the signer
// kubernetes.io/kube-apiserver-serving, so that pods can mount it.
//
// The name of the bundle has a hash of its content. Other bundles of that signer are outdated, and go.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#ctb-signer-linked
package clustertrustbundle

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "kube-apiserver-serving-clustertrustbundle-publisher"

const signer = "kubernetes.io/kube-apiserver-serving"

// only is the one key there is.
var only = types.NamespacedName{Name: signer}

type controller struct {
	client  kubernetes.Interface
	bundles certificateslisters.ClusterTrustBundleLister
	wanted  *certificatesv1.ClusterTrustBundle
	metrics *metrics.Publisher
}

// New returns the controller that publishes ca, PEM certificates.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, ca []byte, measured *metrics.Publisher) reconcile.Controller {
	bundles := factory.Certificates().V1().ClusterTrustBundles()
	c := &controller{client: client, bundles: bundles.Lister(), wanted: bundle(ca), metrics: measured}
	return reconcile.Controller{
		Name:      "ca_cert_publisher_cluster_trust_bundles",
		Reconcile: c.Reconcile,
		Loop: func(ctx context.Context, q reconcile.Queue) error {
			q.Add(only) // there may be none yet
			<-ctx.Done()
			return nil
		},
		Watches: []reconcile.Watch{
			reconcile.OnAny(bundles.Informer(), func(q reconcile.Queue, b *certificatesv1.ClusterTrustBundle) {
				if b.Spec.SignerName == signer {
					q.Add(only)
				}
			}),
		},
	}
}

func bundle(ca []byte) *certificatesv1.ClusterTrustBundle {
	hash := sha256.Sum256(ca)
	return &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s:%x", strings.ReplaceAll(signer, "/", ":"), hash[:12])},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(ca)},
	}
}

// Reconcile publishes what is wanted, and then removes what is not.
func (c *controller) Reconcile(ctx context.Context, _ types.NamespacedName) (reconcile.Result, error) {
	start := time.Now()
	err := c.publish(ctx)
	c.metrics.Synced(start, err)
	return reconcile.Result{}, err
}

func (c *controller) publish(ctx context.Context) error {
	client := c.client.CertificatesV1().ClusterTrustBundles()
	current, err := c.bundles.Get(c.wanted.Name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, c.wanted, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			err = nil // the event will be here soon
		}
	case err == nil && current.Spec.TrustBundle != c.wanted.Spec.TrustBundle:
		changed := current.DeepCopy()
		changed.Spec.TrustBundle = c.wanted.Spec.TrustBundle
		_, err = client.Update(ctx, changed, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish ClusterTrustBundle %s: %w", c.wanted.Name, err)
	}
	all, err := c.bundles.List(labels.Everything())
	errs := []error{err}
	for _, b := range all {
		if b.Spec.SignerName != signer || b.Name == c.wanted.Name {
			continue
		}
		if err := client.Delete(ctx, b.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete ClusterTrustBundle %s: %w", b.Name, err))
		}
	}
	return errors.Join(errs...)
}
