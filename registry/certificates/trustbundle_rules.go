// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

const (
	maxTrustBundle = 1 << 20 // bytes

	pemCertificate = "CERTIFICATE"
	// omitted stands for a value that is too long for a message.
	omitted = "<value omitted>"
)

func validateTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	return append(validateTrustBundleNames(b), validateTrustAnchors(field.NewPath("spec", "trustBundle"), b.Spec.TrustBundle)...)
}

// validateTrustBundleUpdate does not parse again what is stored: the parsers of Go may have become stricter.
func validateTrustBundleUpdate(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
	errs := validateTrustBundleNames(b)
	if b.Spec.TrustBundle != old.Spec.TrustBundle {
		errs = append(errs, validateTrustAnchors(field.NewPath("spec", "trustBundle"), b.Spec.TrustBundle)...)
	}
	return append(errs, rule.Unchanged(field.NewPath("spec", "signerName"), b.Spec.SignerName, old.Spec.SignerName)...)
}

func validateTrustBundleNames(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	errs := rule.ObjectMeta(&b.ObjectMeta, false, trustBundleName(b.Spec.SignerName))
	if b.Spec.SignerName != "" {
		errs = append(errs, podspec.ValidateSignerName(field.NewPath("spec", "signerName"), b.Spec.SignerName)...)
	}
	return errs
}

// trustBundleName says that the bundles of a signer have names that begin with the signer's.
func trustBundleName(signer string) apivalidation.ValidateNameFunc {
	return func(name string, prefix bool) []string { return podspec.TrustBundleNameErrors(signer, name, prefix) }
}

func validateTrustAnchors(path *field.Path, text string) field.ErrorList {
	if len(text) > maxTrustBundle {
		return field.ErrorList{field.TooLong(path, "", maxTrustBundle)}
	}
	var errs field.ErrorList
	seen := map[string][]int{} // where an anchor stands, by its DER
	rest := []byte(text)
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if problem := anchorProblem(block); problem != "" {
			errs = append(errs, field.Invalid(path, omitted, fmt.Sprintf("entry %d %s", i, problem)))
			continue
		}
		seen[string(block.Bytes)] = append(seen[string(block.Bytes)], i)
	}
	if len(errs) > 0 {
		return errs
	}
	if len(seen) == 0 {
		return field.ErrorList{field.Invalid(path, omitted, "at least one trust anchor must be provided")}
	}
	for _, at := range seen {
		errs = append(errs, rule.If(len(at) > 1, field.Invalid(path, omitted, fmt.Sprintf("duplicate trust anchor (indices %v)", at)))...)
	}
	return errs
}

func anchorProblem(block *pem.Block) string {
	if block.Type != pemCertificate {
		return "has bad block type: " + block.Type
	}
	if len(block.Headers) > 0 {
		return "has PEM block headers"
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !certificate.IsCA:
		return "does not have the CA bit set"
	case !certificate.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}
