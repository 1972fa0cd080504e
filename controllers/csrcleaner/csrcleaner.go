// SPDX-License-Identifier: Apache-2.0

// Package csrcleaner deletes certificate requests that have served: an hour after they were answered, a day after
// they were made if nobody decided, or approved if nobody signed, and when the certificate has expired.
package csrcleaner

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, shared with those that approve and sign.
const Name = "certificate-controller"

const (
	keepAnswered = time.Hour
	keepPending  = 24 * time.Hour
)

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	requests := factory.Certificates().V1().CertificateSigningRequests()
	lister := requests.Lister()
	return reconcile.Controller{
		Name: "csrcleaner",
		Reconcile: reconcile.Expiring[*certificatesv1.CertificateSigningRequest]{
			Get: func(key types.NamespacedName) (*certificatesv1.CertificateSigningRequest, error) {
				return lister.Get(key.Name)
			},
			Due: expiry,
			Delete: func(ctx context.Context, request *certificatesv1.CertificateSigningRequest, options metav1.DeleteOptions) error {
				return client.CertificatesV1().CertificateSigningRequests().Delete(ctx, request.Name, options)
			},
		}.Reconcile,
		Workers: 1,
		Watches: []reconcile.Watch{reconcile.OnSelf[*certificatesv1.CertificateSigningRequest](requests.Informer())},
	}
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
