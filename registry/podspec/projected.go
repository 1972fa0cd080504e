// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

// Longest lifetimes in seconds of certificates that pods may ask for: a day from the signers of
// Kubernetes, 91 days from others.
const (
	maxKubernetesCertificateSeconds = 24 * 60 * 60
	maxCertificateSeconds           = 91 * 24 * 60 * 60
)

// projections checks the sources of one projected volume, of which no two may write the same file.
type projections struct {
	path  *field.Path
	files sets.Set[string]
	errs  field.ErrorList
}

func validateProjections(path *field.Path, sources []corev1.VolumeProjection, o Options) field.ErrorList {
	p := projections{path: path, files: sets.New[string]()}
	for i := range sources {
		p.validate(path.Child("sources").Index(i), &sources[i], o)
	}
	return p.errs
}

func (p *projections) add(errs ...*field.Error) { p.errs = append(p.errs, errs...) }

// write notes that a file is written; owner is what to call the source if it was written before.
func (p *projections) write(file, owner string) {
	if p.files.Has(file) {
		p.add(field.Invalid(p.path, owner, "conflicting duplicate paths"))
	}
	p.files.Insert(file)
}

func (p *projections) validate(path *field.Path, s *corev1.VolumeProjection, o Options) {
	n := 0
	if s.Secret != nil {
		n++
		p.validateKeys(path.Child("secret"), s.Secret.Name, s.Secret.Items)
	}
	if s.ConfigMap != nil {
		n++
		p.validateKeys(path.Child("configMap"), s.ConfigMap.Name, s.ConfigMap.Items)
	}
	if s.DownwardAPI != nil {
		n++
		for _, file := range s.DownwardAPI.Items {
			p.add(validateDownwardFile(path.Child("downwardAPI"), file)...)
			if file.Path != "" {
				p.write(file.Path, file.Path)
			}
		}
	}
	if s.ServiceAccountToken != nil {
		n++
		p.validateToken(path.Child("serviceAccountToken"), s.ServiceAccountToken, o)
	}
	if s.ClusterTrustBundle != nil {
		n++
		p.validateTrustBundle(path.Child("clusterTrustBundle"), s.ClusterTrustBundle)
	}
	if s.PodCertificate != nil {
		n++
		p.validateCertificate(path.Child("podCertificate"), s.PodCertificate)
	}
	if n > 1 {
		p.add(field.Forbidden(path, "may not specify more than 1 volume type per source"))
	}
}

func (p *projections) validateKeys(path *field.Path, name string, items []corev1.KeyToPath) {
	p.add(rule.Required(path.Child("name"), name)...)
	for i, item := range items {
		p.add(validateKeyToPath(path.Child("items").Index(i), item)...)
		if item.Path != "" {
			p.write(item.Path, name)
		}
	}
}

// validateToken reports errors of the token's path at the volume, as upstream does.
func (p *projections) validateToken(path *field.Path, token *corev1.ServiceAccountTokenProjection, o Options) {
	switch exp := token.ExpirationSeconds; {
	case exp == nil:
		p.add(field.Required(path.Child("expirationSeconds"), ""))
	case *exp < 10*60:
		p.add(field.Invalid(path.Child("expirationSeconds"), *exp, "may not specify a duration less than 10 minutes"))
	case *exp > 1<<32:
		p.add(field.Invalid(path.Child("expirationSeconds"), *exp, "may not specify a duration larger than 2^32 seconds"))
	}
	if token.Path == "" {
		p.add(field.Required(p.path.Child("path"), ""))
	} else if !o.NonLocalTokenPath {
		p.add(validateFilePath(p.path.Child("path"), token.Path)...)
	}
	p.add(validateUser(path.Child("user"), token.User)...)
}

func (p *projections) validateTrustBundle(path *field.Path, bundle *corev1.ClusterTrustBundleProjection) {
	switch {
	case bundle.Name != nil && bundle.SignerName != nil:
		p.add(field.Invalid(path, bundle, "only one of name and signerName may be used"))
	case bundle.Name != nil:
		p.add(rule.If(*bundle.Name == "", field.Required(path.Child("name"), "must be a valid object name"))...)
		for _, msg := range trustBundleNameErrors(*bundle.Name) {
			p.add(field.Invalid(path.Child("name"), *bundle.Name, fmt.Sprintf("not a valid clustertrustbundlename: %v", msg)))
		}
		if bundle.LabelSelector != nil {
			p.add(field.Invalid(path.Child("labelSelector"), bundle.LabelSelector, "labelSelector must be unset if name is specified"))
		}
	case bundle.SignerName != nil:
		p.add(rule.If(*bundle.SignerName == "", field.Required(path.Child("signerName"), "must be a valid signer name"))...)
		p.add(ValidateSignerName(path.Child("signerName"), *bundle.SignerName)...)
		p.add(rule.LabelSelector(path.Child("labelSelector"), bundle.LabelSelector, false)...)
	default:
		p.add(field.Required(path, "either name or signerName must be specified"))
	}
	p.add(rule.Required(path.Child("path"), bundle.Path)...)
	p.add(validateUser(path.Child("user"), bundle.User)...)
	p.add(validateFilePath(path.Child("path"), bundle.Path)...)
	p.write(bundle.Path, bundle.Path)
}

func (p *projections) validateCertificate(path *field.Path, cert *corev1.PodCertificateProjection) {
	p.add(ValidateSignerName(path.Child("signerName"), cert.SignerName)...)
	if cert.UserAnnotations != nil {
		p.add(ValidateUserAnnotations(path.Child("userAnnotations"), cert.UserAnnotations)...)
	}
	p.add(validateUser(path.Child("user"), cert.User)...)
	p.add(rule.Supported(path.Child("keyType"), cert.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")...)
	if seconds := cert.MaxExpirationSeconds; seconds != nil {
		limit := int32(maxCertificateSeconds)
		if IsKubernetesSigner(cert.SignerName) {
			limit = maxKubernetesCertificateSeconds
		}
		at := path.Child("maxExpirationSeconds")
		p.add(rule.If(*seconds < 3600, field.Invalid(at, *seconds, "if provided, maxExpirationSeconds must be >= 3600"))...)
		p.add(rule.If(*seconds > limit, field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", limit)))...)
	}
	none := true
	for _, file := range []struct{ field, path string }{
		{"credentialBundlePath", cert.CredentialBundlePath},
		{"keyPath", cert.KeyPath},
		{"certificateChainPath", cert.CertificateChainPath},
	} {
		if file.path != "" {
			none = false
			p.add(validateFilePath(path.Child(file.field), file.path)...)
			p.write(file.path, file.path)
		}
	}
	if none {
		p.add(field.Required(path, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
}

// ValidateUserAnnotations checks what a pod tells a signer besides what the API server knows.
func ValidateUserAnnotations(path *field.Path, annotations map[string]string) field.ErrorList {
	var errs field.ErrorList
	for _, key := range sets.List(sets.KeySet(annotations)) {
		errs = append(errs, validation.IsDomainPrefixedKey(path, strings.ToLower(key))...)
	}
	if apivalidation.ValidateAnnotationsSize(annotations) != nil {
		errs = append(errs, field.TooLong(path, "", apivalidation.TotalAnnotationSizeLimitB))
	}
	return errs
}

// IsKubernetesSigner tells whether the name of a signer is one of Kubernetes' own.
func IsKubernetesSigner(name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io")
}

// ValidateSignerName checks a name of the form example.com/signer.
func ValidateSignerName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	parts := strings.Split(name, "/")
	if len(parts) != 2 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	const maxDomain = validation.DNS1123SubdomainMaxLength
	errs := rule.If(len(parts[0]) > maxDomain, field.TooLong(path, "", maxDomain))
	errs = append(errs, validateDotted(path, parts[0], validation.IsDNS1123Label)...)
	errs = append(errs, rule.If(!strings.Contains(parts[0], "."),
		field.Invalid(path, parts[0], "should be a domain with at least two segments separated by dots"))...)
	errs = append(errs, validateDotted(path, parts[1], validation.IsDNS1123Subdomain)...)
	const maxName = 2*maxDomain + validation.DNS1123LabelMaxLength + 2
	return append(errs, rule.If(len(name) > maxName, field.TooLong(path, "", maxName))...)
}

// validateDotted reports the first part between dots that is wrong.
func validateDotted(path *field.Path, name string, check func(string) []string) field.ErrorList {
	for _, part := range strings.Split(name, ".") {
		if msgs := check(part); len(msgs) > 0 {
			var errs field.ErrorList
			for _, msg := range msgs {
				errs = append(errs, field.Invalid(path, name, fmt.Sprintf("validating label %q: %s", part, msg)))
			}
			return errs
		}
	}
	return nil
}

// TrustBundleNameErrors says what is wrong with the name of a ClusterTrustBundle of a signer, or of none.
func TrustBundleNameErrors(signer, name string, prefix bool) []string {
	if signer == "" {
		if strings.Contains(name, ":") {
			return []string{`ClusterTrustBundle without signer name must not have ":" in its name`}
		}
		return apivalidation.NameIsDNSSubdomain(name, prefix)
	}
	want := strings.ReplaceAll(signer, "/", ":") + ":"
	rest, ok := strings.CutPrefix(name, want)
	if !ok {
		return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, want)}
	}
	return apivalidation.NameIsDNSSubdomain(rest, prefix)
}

// trustBundleNameErrors takes the signer from the name.
func trustBundleNameErrors(name string) []string {
	i := strings.LastIndex(name, ":")
	return TrustBundleNameErrors(strings.ReplaceAll(name[:max(i, 0)], ":", "/"), name, false)
}
