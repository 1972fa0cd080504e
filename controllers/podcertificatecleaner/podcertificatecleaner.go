// SPDX-License-Identifier: Apache-2.0

// Package podcertificatecleaner deletes PodCertificateRequests a quarter of an hour after they were made: by then the
// kubelet has its certificate, or asks anew.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
package podcertificatecleaner

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "podcertificaterequestcleaner"

const lifetime = 15 * time.Minute

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	requests := factory.Certificates().V1().PodCertificateRequests()
	lister := requests.Lister()
	return reconcile.Controller{
		Name: "podcertificaterequest-cleaner",
		Reconcile: reconcile.Expiring[*certificatesv1.PodCertificateRequest]{
			Get: func(key types.NamespacedName) (*certificatesv1.PodCertificateRequest, error) {
				return lister.PodCertificateRequests(key.Namespace).Get(key.Name)
			},
			Due: func(request *certificatesv1.PodCertificateRequest) (time.Time, bool) {
				return request.CreationTimestamp.Add(lifetime), true
			},
			Delete: func(ctx context.Context, request *certificatesv1.PodCertificateRequest, options metav1.DeleteOptions) error {
				return client.CertificatesV1().PodCertificateRequests(request.Namespace).Delete(ctx, request.Name, options)
			},
		}.Reconcile,
		Watches: []reconcile.Watch{reconcile.OnSelf[*certificatesv1.PodCertificateRequest](requests.Informer())},
	}
}
