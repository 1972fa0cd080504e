// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	pemRequest           = "CERTIFICATE REQUEST"
	minRequestExpiration = 600 // seconds

	// legacySigner is what requests of certificates.k8s.io/v1beta1 could leave the choice of the signer to.
	legacySigner = "kubernetes.io/legacy-unknown"
)

var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
	certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

// decisions are the conditions that stay once they are there.
var decisions = []certificatesv1.RequestConditionType{
	certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed,
}

// anyName lets a request be called as its author likes.
func anyName(string, bool) []string { return nil }

// validateRequest checks the whole of a request. What is wrong in old too may stay so; old is nil on create.
func validateRequest(o, old *request) field.ErrorList {
	path, spec := field.NewPath("spec"), &o.Spec
	if old == nil {
		old = &request{}
	}
	errs := rule.ObjectMeta(&o.ObjectMeta, false, anyName)
	if err := checkRequest(spec.Request); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), spec.Request, err.Error()))
	}
	at := path.Child("usages")
	errs = append(errs, rule.If(len(spec.Usages) == 0, field.Required(at, ""))...)
	unknown := slices.ContainsFunc(old.Spec.Usages, func(u certificatesv1.KeyUsage) bool { return !slices.Contains(usages, u) })
	twice := sets.New(old.Spec.Usages...).Len() < len(old.Spec.Usages)
	for i, u := range spec.Usages {
		if !unknown {
			errs = append(errs, rule.Supported(at.Index(i), u, usages...)...)
		}
		errs = append(errs, rule.If(!twice && slices.Contains(spec.Usages[:i], u), field.Duplicate(at.Index(i), u))...)
	}
	if signer := path.Child("signerName"); spec.SignerName == legacySigner && old.Spec.SignerName != legacySigner {
		errs = append(errs, field.Invalid(signer, spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, podspec.ValidateSignerName(signer, spec.SignerName)...)
	}
	if s := spec.ExpirationSeconds; s != nil && *s < minRequestExpiration {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, validateConditions(o, old)...)
	if !bytes.Equal(o.Status.Certificate, old.Status.Certificate) && checkCertificate(old.Status.Certificate) == nil {
		if err := checkCertificate(o.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func checkRequest(text []byte) error {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemRequest {
		return errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return parsed.CheckSignature()
}

func checkCertificate(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	rest, blocks := text, 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks++
		if block.Type != pemCertificate {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return errors.New("no PEM block headers are permitted")
		}
		found, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

func validateConditions(o, old *request) field.ErrorList {
	path := field.NewPath("status", "conditions")
	var had []certificatesv1.RequestConditionType
	for _, c := range old.Status.Conditions {
		had = append(had, c.Type)
	}
	contradicts := slices.Contains(had, certificatesv1.CertificateApproved) && slices.Contains(had, certificatesv1.CertificateDenied)
	twice := sets.New(had...).Len() < len(had)
	opposite := map[certificatesv1.RequestConditionType]certificatesv1.RequestConditionType{
		certificatesv1.CertificateApproved: certificatesv1.CertificateDenied, certificatesv1.CertificateDenied: certificatesv1.CertificateApproved,
	}
	var errs field.ErrorList
	var seen []certificatesv1.RequestConditionType
	for i, c := range o.Status.Conditions {
		at := path.Index(i)
		errs = append(errs, rule.If(c.Type == "" && !slices.Contains(had, ""), field.Required(at.Child("type"), ""))...)
		statuses := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		if slices.Contains(decisions, c.Type) {
			statuses = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		errs = append(errs, rule.OneOf(at.Child("status"), c.Status, statuses...)...)
		other, decides := opposite[c.Type]
		errs = append(errs, rule.If(decides && !contradicts && slices.Contains(seen, other),
			field.Invalid(path, c.Type, "Approved and Denied conditions are mutually exclusive"))...)
		errs = append(errs, rule.If(!twice && slices.Contains(seen, c.Type), field.Duplicate(at.Child("type"), c.Type))...)
		seen = append(seen, c.Type)
	}
	return errs
}

// validateRequestUpdate lets neither the decision nor the certificate change.
func validateRequestUpdate(o, old *request) field.ErrorList {
	errs := append(validateRequest(o, old), keepDecisions(o, old, false)...)
	return append(errs, rule.If(!bytes.Equal(o.Status.Certificate, old.Status.Certificate),
		field.Forbidden(field.NewPath("status", "certificate"), "updates may not set certificate content"))...)
}

// validateSigned lets the certificate be set, once.
func validateSigned(o, old *request) field.ErrorList {
	errs := append(validateRequest(o, old), keepDecisions(o, old, false)...)
	return append(errs, rule.If(len(old.Status.Certificate) > 0 && !bytes.Equal(o.Status.Certificate, old.Status.Certificate),
		field.Forbidden(field.NewPath("status", "certificate"), "updates may not modify existing certificate content"))...)
}

// validateApproved lets the request be decided.
func validateApproved(o, old *request) field.ErrorList {
	return append(validateRequest(o, old), keepDecisions(o, old, true)...)
}

// keepDecisions says that no decision is taken back, and that only who decides adds or changes one.
func keepDecisions(o, old *request, deciding bool) field.ErrorList {
	path := field.NewPath("status", "conditions")
	var errs field.ErrorList
	for _, t := range decisions {
		is, was := conditionsOf(o, t), conditionsOf(old, t)
		mayDecide := deciding || t == certificatesv1.CertificateFailed
		switch {
		case len(is) < len(was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		case mayDecide:
		case len(is) > len(was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t)))
		case !equality.Semantic.DeepEqual(is, was):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not modify a condition of type %q", t)))
		}
	}
	return errs
}
