// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// signers asks whether somebody may act for a signer.
type signers struct {
	authorizer.UnconditionalAuthorizer
}

// allow asks for "domain/name", and for all signers of the domain.
func (s signers) allow(ctx context.Context, u user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, _ := s.Authorize(ctx, authorizer.AttributesRecord{
			User: u, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// certificateApproval lets those approve a request who may approve for its signer.
type certificateApproval struct {
	*admission.Handler
	signers signers
}

var _ admission.ValidationInterface = (*certificateApproval)(nil)

func newCertificateApproval(d *Deps) admission.Interface {
	return &certificateApproval{admission.NewHandler(admission.Update), signers{d.Authorizer}}
}

func (p *certificateApproval) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !isFor(a, certificateRequests, "approval") {
		return nil
	}
	csr, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return forbid(a, fmt.Errorf("expected type CertificateSigningRequest, got: %T", a.GetOldObject()))
	}
	if !p.signers.allow(ctx, a.GetUserInfo(), "approve", csr.Spec.SignerName) {
		return forbid(a, fmt.Errorf("user not permitted to approve requests with signerName %q", csr.Spec.SignerName))
	}
	return nil
}

// certificateSigning lets those fill in a certificate who may sign for its signer.
type certificateSigning struct {
	*admission.Handler
	signers signers
}

var _ admission.ValidationInterface = (*certificateSigning)(nil)

func newCertificateSigning(d *Deps) admission.Interface {
	return &certificateSigning{admission.NewHandler(admission.Update), signers{d.Authorizer}}
}

func (p *certificateSigning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if isFor(a, podCertificateRequests, "status") {
		return p.validatePod(ctx, a)
	}
	if !isFor(a, certificateRequests, "status") {
		return nil
	}
	old, okOld := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || !okOld {
		return forbid(a, fmt.Errorf("expected type CertificateSigningRequest, got: %T", a.GetObject()))
	}
	if slices.Equal(old.Status.Certificate, csr.Status.Certificate) && equality.Semantic.DeepEqual(old.Status.Conditions, csr.Status.Conditions) {
		return nil
	}
	if !p.signers.allow(ctx, a.GetUserInfo(), "sign", old.Spec.SignerName) {
		return forbid(a, fmt.Errorf("user not permitted to sign requests with signerName %q", old.Spec.SignerName))
	}
	return nil
}

// validatePod is for the certificates of pods. Upstream asks the same in the rules of the resource.
func (p *certificateSigning) validatePod(ctx context.Context, a admission.Attributes) error {
	old, okOld := a.GetOldObject().(*certificatesv1.PodCertificateRequest)
	request, ok := a.GetObject().(*certificatesv1.PodCertificateRequest)
	if !ok || !okOld {
		return forbid(a, fmt.Errorf("expected type PodCertificateRequest, got: %T", a.GetObject()))
	}
	if equality.Semantic.DeepEqual(old.Status, request.Status) || p.signers.allow(ctx, a.GetUserInfo(), "sign", old.Spec.SignerName) {
		return nil
	}
	return forbid(a, fmt.Errorf("User %q is not permitted to \"sign\" for signer %q", a.GetUserInfo().GetName(), old.Spec.SignerName)) //nolint:staticcheck // upstream's words
}

// certificateSubjectRestriction keeps system:masters out of certificates that people ask for.
type certificateSubjectRestriction struct{ *admission.Handler }

var _ admission.ValidationInterface = certificateSubjectRestriction{}

func newCertificateSubjectRestriction(*Deps) admission.Interface {
	return certificateSubjectRestriction{admission.NewHandler(admission.Create)}
}

func (certificateSubjectRestriction) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || !isFor(a, certificateRequests, "") || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	parsed, err := parseCertificateRequest(csr.Spec.Request)
	if err != nil {
		return forbid(a, fmt.Errorf("failed to parse CSR: %w", err))
	}
	if slices.Contains(parsed.Subject.Organization, user.SystemPrivilegedGroup) {
		return forbid(a, fmt.Errorf("use of %s signer with system:masters group is not allowed", certificatesv1.KubeAPIServerClientSignerName))
	}
	return nil
}

// clusterTrustBundleAttest lets those publish a signer's trust bundle who may attest for it.
type clusterTrustBundleAttest struct {
	*admission.Handler
	signers signers
}

var _ admission.ValidationInterface = (*clusterTrustBundleAttest)(nil)

func newClusterTrustBundleAttest(d *Deps) admission.Interface {
	return &clusterTrustBundleAttest{admission.NewHandler(admission.Create, admission.Update), signers{d.Authorizer}}
}

func (p *clusterTrustBundleAttest) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != (schema.GroupResource{Group: certificatesv1.GroupName, Resource: "clustertrustbundles"}) {
		return nil
	}
	bundle, ok := a.GetObject().(*certificatesv1.ClusterTrustBundle)
	if !ok {
		return forbid(a, fmt.Errorf("expected type ClusterTrustBundle, got: %T", a.GetObject()))
	}
	if bundle.Spec.SignerName == "" {
		return nil
	}
	if old, ok := a.GetOldObject().(*certificatesv1.ClusterTrustBundle); ok && onlyOwnership(bundle, old) {
		return nil
	}
	if !p.signers.allow(ctx, a.GetUserInfo(), "attest", bundle.Spec.SignerName) {
		return forbid(a, fmt.Errorf("user not permitted to attest for signerName %q", bundle.Spec.SignerName))
	}
	return nil
}

// onlyOwnership tells whether just what the garbage collector needs has changed.
func onlyOwnership(bundle, old *certificatesv1.ClusterTrustBundle) bool {
	bundle = bundle.DeepCopy()
	bundle.TypeMeta = old.TypeMeta
	bundle.OwnerReferences, bundle.Finalizers, bundle.ManagedFields = old.OwnerReferences, old.Finalizers, old.ManagedFields
	return equality.Semantic.DeepEqual(bundle, old)
}
