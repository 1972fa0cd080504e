// SPDX-License-Identifier: Apache-2.0

package certificates

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// wantErrors compares what is wrong with parts of messages, in any order.
func wantErrors(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	for _, err := range errs {
		i := slices.IndexFunc(want, func(w string) bool { return strings.Contains(err.Error(), w) })
		if i < 0 {
			t.Errorf("also wrong: %s", err)
			continue
		}
		want = slices.Delete(slices.Clone(want), i, i+1)
	}
	for _, w := range want {
		t.Errorf("missing: %s", w)
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate is DER of a certificate that signs itself, after change.
func certificate(t *testing.T, key crypto.Signer, change func(*x509.Certificate)) []byte {
	t.Helper()
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: now, NotAfter: now.Add(2 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	change(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func requestFor(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func TestTrustBundle(t *testing.T) {
	key := newKey(t)
	anchor := encode("CERTIFICATE", certificate(t, key, func(*x509.Certificate) {}))
	leaf := encode("CERTIFICATE", certificate(t, key, func(c *x509.Certificate) { c.IsCA = false }))
	for _, test := range []struct {
		name, signer, text string
		want               []string
	}{
		{"mine", "", anchor, nil},
		{"example.com:signer:one", "example.com/signer", anchor, nil},
		{"one", "example.com/signer", anchor, []string{"must be named with prefix example.com:signer:"}},
		{"example.com:signer:one", "", anchor, []string{`without signer name must not have ":" in its name`}},
		{"mine", "", "", []string{"at least one trust anchor must be provided"}},
		{"mine", "", anchor + leaf, []string{"entry 1 does not have the CA bit set"}},
		{"mine", "", anchor + encode("PRIVATE KEY", []byte("x")), []string{"entry 1 has bad block type: PRIVATE KEY"}},
		{"mine", "", encode("CERTIFICATE", []byte("x")), []string{"entry 0 does not parse as X.509"}},
		{"mine", "", anchor + "\n# comments are ignored\n" + anchor, []string{"duplicate trust anchor (indices [0 1])"}},
		{"mine", "", strings.Repeat("x", maxTrustBundle+1), []string{"may not be more than 1048576 bytes"}},
	} {
		b := &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: test.name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: test.signer, TrustBundle: test.text},
		}
		t.Run(test.name+"/"+test.signer, func(t *testing.T) { wantErrors(t, validateTrustBundle(b), test.want...) })
	}
	stored := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: "no longer parsed"}}
	wantErrors(t, validateTrustBundleUpdate(stored.DeepCopy(), stored))
}

func TestRequest(t *testing.T) {
	key := newKey(t)
	valid := func() *request {
		return &request{
			ObjectMeta: metav1.ObjectMeta{Name: "Any Name"},
			Spec: certificatesv1.CertificateSigningRequestSpec{
				Request: []byte(encode("CERTIFICATE REQUEST", requestFor(t, key))), SignerName: "example.com/signer",
				Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
			},
		}
	}
	condition := func(kind certificatesv1.RequestConditionType, status corev1.ConditionStatus) certificatesv1.CertificateSigningRequestCondition {
		return certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: status}
	}
	for name, test := range map[string]struct {
		edit func(*request)
		want []string
	}{
		"valid":   {func(*request) {}, nil},
		"request": {func(o *request) { o.Spec.Request = []byte("x") }, []string{"PEM block type must be CERTIFICATE REQUEST"}},
		"usages":  {func(o *request) { o.Spec.Usages = nil }, []string{"spec.usages: Required value"}},
		"unknown usages": {func(o *request) { o.Spec.Usages = []certificatesv1.KeyUsage{"x", "any", "any"} }, []string{
			`spec.usages[0]: Unsupported value: "x"`, `spec.usages[2]: Duplicate value: "any"`,
		}},
		"legacy signer": {func(o *request) { o.Spec.SignerName = legacySigner }, []string{"the legacy signerName is not allowed via this API version"}},
		"expiration":    {func(o *request) { s := int32(599); o.Spec.ExpirationSeconds = &s }, []string{"may not specify a duration less than 600 seconds"}},
		"conditions": {func(o *request) {
			o.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
				condition(certificatesv1.CertificateApproved, "True"), condition(certificatesv1.CertificateDenied, "False"), condition("", "x"),
			}
		}, []string{
			`status.conditions[1].status: Unsupported value: "False"`, "Approved and Denied conditions are mutually exclusive",
			"status.conditions[2].type: Required value", `status.conditions[2].status: Unsupported value: "x"`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := valid()
			test.edit(o)
			wantErrors(t, validateRequest(o, nil), test.want...)
		})
	}

	old, o := valid(), valid()
	o.Status.Conditions = append(o.Status.Conditions, condition(certificatesv1.CertificateApproved, "True"))
	wantErrors(t, validateApproved(o, old))
	wantErrors(t, validateRequestUpdate(o, old), `updates may not add a condition of type "Approved"`)
	wantErrors(t, validateSigned(o, old), `updates may not add a condition of type "Approved"`)
	wantErrors(t, validateApproved(old, o), `updates may not remove a condition of type "Approved"`)

	signed := o.DeepCopy()
	signed.Status.Certificate = []byte(encode("CERTIFICATE", certificate(t, key, func(*x509.Certificate) {})))
	wantErrors(t, validateSigned(signed, o))
	wantErrors(t, validateRequestUpdate(signed, o), "updates may not set certificate content")
	wantErrors(t, validateSigned(o, signed), "updates may not modify existing certificate content")
	bad := o.DeepCopy()
	bad.Status.Certificate = []byte("x")
	wantErrors(t, validateSigned(bad, o), "must contain at least one CERTIFICATE PEM block")
}

func TestPodCertificate(t *testing.T) {
	key := newKey(t)
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	old := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "ns", UID: "4", ResourceVersion: "1"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/signer", PodName: "p", PodUID: "1", ServiceAccountName: "default", ServiceAccountUID: "2", NodeName: "n", NodeUID: "3",
			StubPKCS10Request: requestFor(t, key),
		},
	}
	defaultPodCertificate(old)
	for name, test := range map[string]struct {
		edit func(*certificatesv1.PodCertificateRequestSpec)
		want []string
	}{
		"valid":    {func(*certificatesv1.PodCertificateRequestSpec) {}, nil},
		"lifetime": {func(s *certificatesv1.PodCertificateRequestSpec) { *s.MaxExpirationSeconds = 3599 }, []string{"must be in the range [3600, 7862400]"}},
		"our lifetime": {func(s *certificatesv1.PodCertificateRequestSpec) {
			s.SignerName, *s.MaxExpirationSeconds = "kubernetes.io/kube-apiserver-client-pod", 86401
		}, []string{"must be in the range [3600, 86400]"}},
		"no UID":    {func(s *certificatesv1.PodCertificateRequestSpec) { s.PodUID = "" }, []string{"spec.podUID: Invalid value: \"\": must not be empty"}},
		"no key":    {func(s *certificatesv1.PodCertificateRequestSpec) { s.StubPKCS10Request = nil }, []string{"exactly one of"}},
		"small key": {func(s *certificatesv1.PodCertificateRequestSpec) { s.StubPKCS10Request = requestFor(t, small) }, []string{"RSA keys must have modulus size 3072 or 4096"}},
		"no request": {func(s *certificatesv1.PodCertificateRequestSpec) { s.StubPKCS10Request = []byte("x") }, []string{
			"must be a valid PKCS#10 CSR",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := old.DeepCopy()
			test.edit(&r.Spec)
			wantErrors(t, validatePodCertificate(r), test.want...)
		})
	}

	ended := func(kind string) *certificatesv1.PodCertificateRequest {
		r := old.DeepCopy()
		r.Status.Conditions = []metav1.Condition{{Type: kind, Status: metav1.ConditionTrue, Reason: "Because", LastTransitionTime: metav1.Now()}}
		return r
	}
	issued := func(key crypto.Signer, change func(*x509.Certificate)) *certificatesv1.PodCertificateRequest {
		r := ended("Issued")
		der := certificate(t, key, change)
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		from, to, refresh := metav1.NewTime(leaf.NotBefore), metav1.NewTime(leaf.NotAfter), metav1.NewTime(leaf.NotAfter.Add(-30*time.Minute))
		r.Status.CertificateChain, r.Status.NotBefore, r.Status.NotAfter, r.Status.BeginRefreshAt = encode("CERTIFICATE", der), &from, &to, &refresh
		return r
	}
	plain := func(*x509.Certificate) {}
	for name, test := range map[string]struct {
		now  *certificatesv1.PodCertificateRequest
		want []string
	}{
		"issued": {issued(key, plain), nil},
		"failed": {ended("Failed"), nil},
		"maybe":  {ended("Maybe"), []string{`status.conditions.[0].type: Unsupported value: "Maybe"`}},
		"denied with a certificate": {func() *certificatesv1.PodCertificateRequest {
			r := issued(key, plain)
			r.Status.Conditions[0].Type = "Denied"
			return r
		}(), []string{"non-condition status fields must be empty"}},
		"for another key": {issued(newKey(t), plain), []string{"leaf certificate was not issued to the requested public key"}},
		"nothing":         {ended("Issued"), []string{"issued certificate chain must contain at least one certificate"}},
		"too long": {issued(key, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(25 * time.Hour) }), []string{
			"leaf certificate lifetime must be <= spec.maxExpirationSeconds (86400)",
		}},
		"old": {issued(key, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-10 * time.Minute) }), []string{
			"must be set to within 5 minutes of kube-apiserver's current time",
		}},
		"bad name": {issued(key, func(c *x509.Certificate) { c.DNSNames = []string{"a..b"} }), []string{"leaf certificate's DNSName should not contain '..'"}},
	} {
		t.Run("status/"+name, func(t *testing.T) { wantErrors(t, validatePodCertificateStatus(test.now, old), test.want...) })
	}
	wantErrors(t, validatePodCertificateStatus(ended("Failed"), ended("Denied")), "immutable after PodCertificateRequest is issued, denied, or failed")
}
