// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// The rules of KEP-4317, "Pod Certificates".
const (
	defaultExpiration   = 24 * 60 * 60 // seconds, as the next three
	minExpiration       = 60 * 60
	maxExpiration       = 91 * 24 * 60 * 60
	maxExpirationOfOurs = 24 * 60 * 60 // for the signers of Kubernetes

	maxStub      = 10 * 1024 // bytes
	maxChain     = 100 * 1024
	maxUID       = 128
	clockSkew    = 5 * time.Minute
	minLifetime  = time.Hour
	refreshSpace = 10 * time.Minute // before and after which a certificate is not renewed
)

var (
	requestPath = field.NewPath("spec", "stubPKCS10Request")
	chainPath   = field.NewPath("status", "certificateChain")
)

func defaultPodCertificate(r *certificatesv1.PodCertificateRequest) {
	if r.Spec.MaxExpirationSeconds == nil {
		seconds := int32(defaultExpiration)
		r.Spec.MaxExpirationSeconds = &seconds
	}
}

// preparePodCertificateStatus lets nothing but the status change.
func preparePodCertificateStatus(r, old *certificatesv1.PodCertificateRequest) {
	metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
}

func validatePodCertificate(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	spec, path := &r.Spec, field.NewPath("spec")
	errs := rule.ObjectMeta(&r.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, podspec.ValidateSignerName(path.Child("signerName"), spec.SignerName)...)
	if spec.UnverifiedUserAnnotations != nil {
		errs = append(errs, podspec.ValidateUserAnnotations(path.Child("unverifiedUserAnnotations"), spec.UnverifiedUserAnnotations)...)
	}
	errs = append(errs, rule.Name(path.Child("podName"), spec.PodName, apivalidation.NameIsDNSSubdomain)...)
	errs = append(errs, validateUID(path.Child("podUID"), spec.PodUID)...)
	errs = append(errs, rule.Name(path.Child("serviceAccountName"), spec.ServiceAccountName, apivalidation.ValidateServiceAccountName)...)
	errs = append(errs, validateUID(path.Child("serviceAccountUID"), spec.ServiceAccountUID)...)
	errs = append(errs, rule.Name(path.Child("nodeName"), string(spec.NodeName), apivalidation.NameIsDNSSubdomain)...)
	errs = append(errs, validateUID(path.Child("nodeUID"), spec.NodeUID)...)
	if spec.MaxExpirationSeconds == nil {
		return append(errs, field.Required(path.Child("maxExpirationSeconds"), "must be set"))
	}
	longest := int32(maxExpiration)
	if podspec.IsKubernetesSigner(spec.SignerName) {
		longest = maxExpirationOfOurs
	}
	if s := *spec.MaxExpirationSeconds; s < minExpiration || s > longest {
		errs = append(errs, field.Invalid(path.Child("maxExpirationSeconds"), s, fmt.Sprintf("must be in the range [%d, %d]", minExpiration, longest)))
	}
	if len(spec.StubPKCS10Request) == 0 {
		return append(errs, field.Invalid(path, field.OmitValueType{}, "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set"))
	}
	return append(errs, validateStubRequest(spec)...)
}

func validateUID(path *field.Path, uid types.UID) field.ErrorList {
	switch {
	case uid == "":
		return field.ErrorList{field.Invalid(path, uid, "must not be empty")}
	case len(uid) > maxUID:
		return field.ErrorList{field.TooLong(path, uid, maxUID)}
	}
	return nil
}

// validateStubRequest checks the key and the signature. What else the request says is the signer's business.
func validateStubRequest(spec *certificatesv1.PodCertificateRequestSpec) field.ErrorList {
	if len(spec.StubPKCS10Request) > maxStub {
		return field.ErrorList{field.TooLong(requestPath, spec.StubPKCS10Request, maxStub)}
	}
	request, err := x509.ParseCertificateRequest(spec.StubPKCS10Request)
	if err != nil {
		return field.ErrorList{field.Invalid(requestPath, field.OmitValueType{}, "must be a valid PKCS#10 CSR")}
	}
	if value, problem := keyProblem(request.PublicKey); problem != "" {
		return field.ErrorList{field.Invalid(requestPath, value, problem)}
	}
	return rule.If(request.CheckSignature() != nil, field.Invalid(requestPath, field.OmitValueType{}, "invalid signature"))
}

// keyProblem says what is wrong with a key, and of which value of it.
func keyProblem(key crypto.PublicKey) (value any, problem string) {
	switch key := key.(type) {
	case ed25519.PublicKey:
		return nil, ""
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return "curve " + key.Curve.Params().Name, "elliptic public keys must use curve P256, P384, or P521"
		}
		return nil, ""
	case *rsa.PublicKey:
		if bits := key.Size() * 8; bits != 3072 && bits != 4096 {
			return fmt.Sprintf("%d-bit modulus", bits), "RSA keys must have modulus size 3072 or 4096"
		}
		return nil, ""
	}
	return field.OmitValueType{}, "unknown public key type; supported types are Ed25519, ECDSA, and RSA"
}

func validatePodCertificateUpdate(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	return append(rule.ObjectMetaUpdate(&r.ObjectMeta), rule.Unchanged(field.NewPath("spec"), r.Spec, old.Spec)...)
}

var outcomes = []string{
	certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
	certificatesv1.PodCertificateRequestConditionTypeFailed,
}

// outcome is how the request ended, if it has.
func outcome(r *certificatesv1.PodCertificateRequest) string {
	for _, c := range r.Status.Conditions {
		if slices.Contains(outcomes, c.Type) && c.Status == metav1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// validatePodCertificateStatus says that a request ends once, and that a certificate is for the key that was asked for.
func validatePodCertificateStatus(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	status := field.NewPath("status")
	errs := rule.ObjectMetaUpdate(&r.ObjectMeta)
	if len(apivalidation.ValidateObjectMetaUpdate(&r.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))) > 0 {
		return errs // the machinery tells the others
	}
	known := 0
	for i, c := range r.Status.Conditions {
		at := status.Child("conditions", fmt.Sprintf("[%d]", i)) // upstream has the dot too
		if !slices.Contains(outcomes, c.Type) {
			errs = append(errs, field.NotSupported(at.Child("type"), c.Type, outcomes))
			continue
		}
		known++
		errs = append(errs, rule.If(known > 1, field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))...)
		errs = append(errs, rule.Supported(at.Child("status"), c.Status, metav1.ConditionTrue)...)
	}
	errs = append(errs, metavalidation.ValidateConditions(r.Status.Conditions, status.Child("conditions"))...)
	if len(errs) > 0 {
		return errs
	}
	if outcome(old) != "" {
		return rule.If(!equality.Semantic.DeepEqual(r.Status, old.Status),
			field.Invalid(status, field.OmitValueType{}, "immutable after PodCertificateRequest is issued, denied, or failed"))
	}
	switch outcome(r) {
	case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
		conditionsOnly := certificatesv1.PodCertificateRequestStatus{Conditions: r.Status.Conditions}
		return rule.If(!equality.Semantic.DeepEqual(r.Status, conditionsOnly),
			field.Invalid(status, field.OmitValueType{}, "non-condition status fields must be empty when denying or failing the PodCertificateRequest"))
	case certificatesv1.PodCertificateRequestConditionTypeIssued:
		return validateIssued(r, time.Now())
	}
	return rule.If(!equality.Semantic.DeepEqual(r.Status, old.Status),
		field.Invalid(status, field.OmitValueType{}, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`))
}

func validateIssued(r *certificatesv1.PodCertificateRequest, now time.Time) field.ErrorList {
	chain := r.Status.CertificateChain
	if len(chain) > maxChain {
		return field.ErrorList{field.TooLong(chainPath, chain, maxChain)}
	}
	certificates, problem := parseChain(chain)
	if problem != "" {
		return field.ErrorList{field.Invalid(chainPath, chain, problem)}
	}
	leaf := certificates[0]
	if errs := validateLeafNames(leaf); len(errs) > 0 {
		return errs
	}
	if key, ok := requestedKey(&r.Spec).(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(leaf.PublicKey) {
		return field.ErrorList{field.Invalid(chainPath, chain, "leaf certificate was not issued to the requested public key")}
	}
	return validateLifetime(r, leaf, now)
}

// parseChain returns at least one certificate, or what is wrong.
func parseChain(chain string) ([]*x509.Certificate, string) {
	var out []*x509.Certificate
	rest := []byte(chain)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != pemCertificate {
			return nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil && len(out) == 0:
			return nil, "leaf certificate does not parse as valid X.509"
		case err != nil:
			return nil, "intermediate certificate does not parse as valid X.509"
		}
		out = append(out, certificate)
	}
	if len(out) == 0 {
		return nil, "issued certificate chain must contain at least one certificate"
	}
	return out, ""
}

func validateLeafNames(leaf *x509.Certificate) field.ErrorList {
	var errs field.ErrorList
	for _, name := range leaf.DNSNames {
		errs = append(errs, rule.If(name == "", field.Invalid(chainPath, name, "leaf certificate should not contain empty DNSName"))...)
		errs = append(errs, rule.If(strings.Contains(name, ".."), field.Invalid(chainPath, name, "leaf certificate's DNSName should not contain '..'"))...)
		errs = append(errs, rule.If(strings.HasPrefix(name, ".") || strings.HasSuffix(name, "."),
			field.Invalid(chainPath, name, "leaf certificate's DNSName should not start or end with '.'"))...)
	}
	for _, address := range leaf.EmailAddresses {
		_, err := mail.ParseAddress(address)
		errs = append(errs, rule.If(err != nil, field.Invalid(chainPath, address, "leaf certificate should not contain invalid EmailAddress"))...)
	}
	return errs
}

func requestedKey(spec *certificatesv1.PodCertificateRequestSpec) crypto.PublicKey {
	request, err := x509.ParseCertificateRequest(spec.StubPKCS10Request)
	if err != nil {
		return nil
	}
	return request.PublicKey
}

func validateLifetime(r *certificatesv1.PodCertificateRequest, leaf *x509.Certificate, now time.Time) field.ErrorList {
	status, s := field.NewPath("status"), &r.Status
	notBefore, notAfter, refresh := status.Child("notBefore"), status.Child("notAfter"), status.Child("beginRefreshAt")
	const consistent = "must be present and consistent with the issued certificate"
	errs := rule.If(s.NotBefore == nil, field.Required(notBefore, consistent))
	errs = append(errs, rule.If(s.NotAfter == nil, field.Required(notAfter, consistent))...)
	errs = append(errs, rule.If(s.BeginRefreshAt == nil, field.Required(refresh, "must be present and in the range [notbefore+10min, notafter-10min]"))...)
	if len(errs) > 0 {
		return errs
	}
	lifetime := leaf.NotAfter.Sub(leaf.NotBefore)
	for _, check := range []struct {
		wrong   bool
		path    *field.Path
		value   any
		message string
	}{
		{!s.NotBefore.Time.Equal(leaf.NotBefore), notBefore, s.NotBefore.Time, "must be set to the NotBefore time encoded in the leaf certificate"},
		{now.Sub(s.NotBefore.Time).Abs() > clockSkew, notBefore, s.NotBefore.Time, "must be set to within 5 minutes of kube-apiserver's current time"},
		{!s.NotAfter.Time.Equal(leaf.NotAfter), notAfter, s.NotAfter.Time, "must be set to the NotAfter time encoded in the leaf certificate"},
		{lifetime < minLifetime, chainPath, lifetime, "leaf certificate lifetime must be >= 1 hour"},
		{
			lifetime > time.Duration(*r.Spec.MaxExpirationSeconds)*time.Second, chainPath, lifetime,
			fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v)", *r.Spec.MaxExpirationSeconds),
		},
		{s.BeginRefreshAt.Time.Before(s.NotBefore.Add(refreshSpace)), refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes after status.notBefore"},
		{s.BeginRefreshAt.After(s.NotAfter.Add(-refreshSpace)), refresh, s.BeginRefreshAt.Time, "must be at least 10 minutes before status.notAfter"},
	} {
		if check.wrong {
			return field.ErrorList{field.Invalid(check.path, check.value, check.message)}
		}
	}
	return nil
}
