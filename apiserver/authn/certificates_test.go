// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/skiff-k8s/skiff/pki"
)

// counting is a verification that counts.
type counting struct {
	authenticator.Request
	n int
}

func (c *counting) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	c.n++
	return c.Request.AuthenticateRequest(r)
}

// A certificate is verified once a minute for a connection, and again when others are trusted or it has expired.
func TestCertificatesAreRemembered(t *testing.T) {
	keys := func() *pki.PKI {
		t.Helper()
		p, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	ours, others := keys(), keys()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(ours.Admin.Leaf().NotBefore) + time.Hour) // the bubble's time begins long ago
		trusted := ours.ClientCA.VerifyOptions
		c := newCertificates(func() (x509.VerifyOptions, bool) {
			options, ok := trusted()
			options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			return options, ok
		})
		verify := &counting{Request: c.verify}
		c.verify = verify
		ask := func(leaf *x509.Certificate) bool {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
			response, ok, _ := c.AuthenticateRequest(r)
			return ok && response.User.GetName() == "kubernetes-admin"
		}
		want := func(what string, leaf *x509.Certificate, recognized bool, verifications int) {
			t.Helper()
			before := verify.n
			if got := ask(leaf); got != recognized || verify.n-before != verifications {
				t.Errorf("%s: recognized %v after %d verifications, want %v after %d", what, got, verify.n-before, recognized, verifications)
			}
		}
		leaf := ours.Admin.Leaf()
		want("the first request", leaf, true, 1)
		want("the second", leaf, true, 0)
		want("one of a stranger", others.Admin.Leaf(), false, 1)
		want("another of the stranger", others.Admin.Leaf(), false, 1)
		time.Sleep(certificateTTL)
		want("one a minute later", leaf, true, 1)
		trusted = others.ClientCA.VerifyOptions
		want("one when others are trusted", leaf, false, 1)
		want("one of who was a stranger", others.Admin.Leaf(), true, 1)
		trusted = ours.ClientCA.VerifyOptions
		time.Sleep(time.Until(leaf.NotAfter) - certificateTTL/2)
		want("one just before the end", leaf, true, 1)
		time.Sleep(certificateTTL/2 + time.Second)
		want("one after the end", leaf, false, 1)
		if _, ok, err := c.AuthenticateRequest(httptest.NewRequest(http.MethodGet, "/", nil)); ok || err != nil {
			t.Errorf("without a certificate: %v, %v", ok, err)
		}
	})
}
