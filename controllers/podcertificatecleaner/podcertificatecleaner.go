// SPDX-License-Identifier: Apache-2.0

// Package podcertificatecleaner deletes PodCertificateRequests a quarter of an hour after they were made: by then the
// kubelet has its certificate, or asks anew.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
package podcertificatecleaner

import (
	"context"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "podcertificaterequestcleaner"

const lifetime = 15 * time.Minute

type controller struct {
	client   kubernetes.Interface
	requests certificateslisters.PodCertificateRequestLister
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	requests := factory.Certificates().V1().PodCertificateRequests()
	c := &controller{client: client, requests: requests.Lister()}
	return reconcile.Controller{
		Name:      "podcertificaterequest-cleaner",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(requests.Informer(), func(q reconcile.Queue, old, new *certificatesv1.PodCertificateRequest) {
				if old == nil {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
	}
}

// Reconcile deletes a request whose time has come, or asks to see it again when it will have.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	request, err := c.requests.PodCertificateRequests(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if left := time.Until(request.CreationTimestamp.Add(lifetime)); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	err = c.client.CertificatesV1().PodCertificateRequests(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
		Preconditions: metav1.NewUIDPreconditions(string(request.UID)),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return reconcile.Result{}, fmt.Errorf("delete PodCertificateRequest %s: %w", key, err)
	}
	return reconcile.Result{}, nil
}
