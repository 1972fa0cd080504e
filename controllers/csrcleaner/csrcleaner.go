// SPDX-License-Identifier: Apache-2.0

// Package csrcleaner deletes certificate requests that have served: an hour after they were answered, a day after
// they were made if nobody decided, or approved if nobody signed, and when the certificate has expired.
package csrcleaner

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
	"k8s.io/client-go/util/cert"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, shared with those that approve and sign.
const Name = "certificate-controller"

const (
	keepAnswered = time.Hour
	keepPending  = 24 * time.Hour
)

type controller struct {
	client   kubernetes.Interface
	requests certificateslisters.CertificateSigningRequestLister
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	requests := factory.Certificates().V1().CertificateSigningRequests()
	c := &controller{client: client, requests: requests.Lister()}
	return reconcile.Controller{
		Name:      "csrcleaner",
		Reconcile: c.Reconcile,
		Workers:   1,
		Watches:   []reconcile.Watch{reconcile.OnSelf[*certificatesv1.CertificateSigningRequest](requests.Informer())},
	}
}

// Reconcile deletes a request when it is time, or asks to see it again then.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	request, err := c.requests.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	due, ends := expiry(request)
	if !ends {
		return reconcile.Result{}, nil
	}
	if left := time.Until(due); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	err = c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, request.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &request.UID, ResourceVersion: &request.ResourceVersion},
	})
	// Conflict: it changed, and that change queues it again.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return reconcile.Result{}, fmt.Errorf("delete the request: %w", err)
	}
	return reconcile.Result{}, nil
}

// expiry is when a request is of no use any more: the first of what its conditions and its certificate say.
func expiry(request *certificatesv1.CertificateSigningRequest) (due time.Time, ends bool) {
	note := func(since metav1.Time, keep time.Duration) {
		if at := since.Add(keep); !since.IsZero() && (!ends || at.Before(due)) {
			due, ends = at, true
		}
	}
	issued := len(request.Status.Certificate) > 0
	if len(request.Status.Conditions) == 0 {
		note(request.CreationTimestamp, keepPending)
	}
	for _, c := range request.Status.Conditions {
		switch {
		case c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed:
			note(c.LastUpdateTime, keepAnswered)
		case c.Type == certificatesv1.CertificateApproved && !issued:
			note(c.LastUpdateTime, keepPending)
		case c.Type == certificatesv1.CertificateApproved:
			note(c.LastUpdateTime, keepAnswered)
			if certificates, err := cert.ParseCertsPEM(request.Status.Certificate); err == nil {
				note(metav1.NewTime(certificates[0].NotAfter), 0)
			}
		}
	}
	return due, ends
}
