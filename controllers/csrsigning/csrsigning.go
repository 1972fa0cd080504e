// SPDX-License-Identifier: Apache-2.0

// Package csrsigning signs approved certificate requests for the four signers of Kubernetes.
//
// What a signer does not sign, whoever approved it, fails with a condition that says why. A certificate is valid for
// a year, or for as long as was asked for if that is shorter.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers
package csrsigning

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/pki"
)

// Name is the controller's identity, shared with those that approve and clean up.
const Name = "certificate-controller"

// life is how long a certificate is valid if nothing shorter was asked for.
const life = 365 * 24 * time.Hour

const legacyUnknown = "kubernetes.io/legacy-unknown" // of v1beta1; requests in v1 cannot name it

// Authorities sign. One without a key, or that is nil, leaves its requests to somebody else.
type Authorities struct {
	Client        *pki.Authority // of whom the API server lets in
	KubeletServer *pki.Authority // of what kubelets show the API server
	Legacy        *pki.Authority // of kubernetes.io/legacy-unknown
}

type signer struct {
	authority *pki.Authority
	check     func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error
}

type controller struct {
	client   kubernetes.Interface
	requests certificateslisters.CertificateSigningRequestLister
	signers  map[string]signer
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, by Authorities) reconcile.Controller {
	requests := factory.Certificates().V1().CertificateSigningRequests()
	c := &controller{client: client, requests: requests.Lister(), signers: map[string]signer{
		certificatesv1.KubeAPIServerClientKubeletSignerName: {by.Client, pki.CheckKubeletClient},
		certificatesv1.KubeletServingSignerName:             {by.KubeletServer, pki.CheckKubeletServing},
		certificatesv1.KubeAPIServerClientSignerName:        {by.Client, checkClient},
		legacyUnknown: {by.Legacy, func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil }},
	}}
	return reconcile.Controller{
		Name:       "csrsigning",
		Reconcile:  c.Reconcile,
		MinBackoff: 200 * time.Millisecond,
		Watches:    []reconcile.Watch{reconcile.OnSelf[*certificatesv1.CertificateSigningRequest](requests.Informer())},
	}
}

// Reconcile signs a request that was approved.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	request, err := c.requests.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil || !waits(request) {
		return reconcile.Result{}, err
	}
	by := c.signers[request.Spec.SignerName]
	if by.authority == nil || by.authority.Key() == nil {
		return reconcile.Result{}, nil
	}
	parsed, err := pki.ParseRequest(request.Spec.Request)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("parse the request: %w", err)
	}
	answered := request.DeepCopy()
	if err := by.check(parsed, request.Spec.Usages); err != nil {
		answered.Status.Conditions = append(answered.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(), LastUpdateTime: metav1.Now(),
		})
	} else if answered.Status.Certificate, err = by.authority.SignRequest(parsed, request.Spec.Usages, life, request.Spec.ExpirationSeconds); err != nil {
		return reconcile.Result{}, fmt.Errorf("sign the request: %w", err)
	}
	if _, err := c.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, answered, metav1.UpdateOptions{}); err != nil {
		return reconcile.Result{}, fmt.Errorf("answer the request: %w", err)
	}
	return reconcile.Result{}, nil
}

// waits tells whether a request was approved and has no answer yet.
func waits(request *certificatesv1.CertificateSigningRequest) bool {
	approved := false
	for _, c := range request.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied:
			return false
		case certificatesv1.CertificateFailed:
			if c.Status == corev1.ConditionTrue {
				return false
			}
		}
	}
	return approved && len(request.Status.Certificate) == 0
}

// checkClient allows what a client of the API server can use. The words are upstream's.
func checkClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	forClients := false
	for _, usage := range usages {
		switch usage {
		case certificatesv1.UsageClientAuth:
			forClients = true
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", usage)
		}
	}
	if !forClients {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}
