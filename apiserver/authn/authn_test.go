// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
	"github.com/skiff-k8s/skiff/pki"
)

const issuer = "https://kubernetes.default.svc"

func bootstrapSecret(id string, change func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id},
		Type:       "bootstrap.kubernetes.io/token",
		Data: map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"),
			"usage-bootstrap-authentication": []byte("true")},
	}
	if change != nil {
		change(s)
	}
	return s
}

func TestChain(t *testing.T) {
	certs, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "robot", UID: "1"}}
	past := time.Now().Add(-time.Minute).Format(time.RFC3339)
	client := fake.NewClientset(account,
		bootstrapSecret("aaaaaa", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:x:y") }),
		bootstrapSecret("bbbbbb", func(s *corev1.Secret) { s.Data["expiration"] = []byte(past) }),
		bootstrapSecret("cccccc", func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }),
		bootstrapSecret("dddddd", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }),
		bootstrapSecret("eeeeee", func(s *corev1.Secret) { s.Type = "Opaque" }),
	)
	signer, err := satoken.NewIssuer(issuer, certs.ServiceAccountKey.Private)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := signer.Issue(satoken.Bound{ServiceAccount: account, Audiences: []string{issuer}, Now: time.Now(), Expires: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	auth, err := New(t.Context(), Config{
		ClientCA: certs.ClientCA, RequestHeaderCA: certs.RequestHeaderCA, RequestHeaderUser: []string{"front-proxy-client"},
		Issuers: []string{issuer}, TokenKeys: certs.ServiceAccountKey.Public, Audiences: authenticator.Audiences{issuer},
		Objects: satoken.Live(client), Client: client,
	})
	if err != nil {
		t.Fatal(err)
	}

	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forger, err := satoken.NewIssuer(issuer, crypto.Signer(otherKey))
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := forger.Issue(satoken.Bound{ServiceAccount: account, Now: time.Now(), Expires: time.Hour})
	if err != nil {
		t.Fatal(err)
	}

	cert := func(c *pki.Certificate) func(*http.Request) {
		return func(r *http.Request) { r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Leaf()}} }
	}
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	front := func(c *pki.Certificate) func(*http.Request) {
		return func(r *http.Request) {
			cert(c)(r)
			r.Header.Set("X-Remote-User", "ann")
			r.Header.Set("X-Remote-Group", "dev")
			r.Header.Set("X-Remote-Extra-Team", "blue")
		}
	}
	const nobody, failure = "-", "!"
	for _, tc := range []struct {
		name, path string
		change     func(*http.Request)
		user       string
		groups     string
	}{
		{"admin", "/api", cert(certs.Admin), "kubernetes-admin", "system:masters system:authenticated"},
		{"kubelet", "/api", cert(certs.KubeletClient), "system:node:n", "system:nodes system:authenticated"},
		{"serving certificate", "/api", cert(certs.APIServer), failure, ""},
		{"service account", "/api", bearer(token), "system:serviceaccount:ns:robot", "system:serviceaccounts system:serviceaccounts:ns system:authenticated"},
		{"forged token", "/api", bearer(forged), failure, ""},
		{"forged token on a public path", "/healthz", bearer(forged), failure, ""},
		{"unknown token", "/api", bearer("abc"), failure, ""},
		{"joining node", "/api", bearer("aaaaaa.0123456789abcdef"), "system:bootstrap:aaaaaa", "system:bootstrappers system:bootstrappers:x:y system:authenticated"},
		{"wrong secret", "/api", bearer("aaaaaa.0123456789abcdex"), failure, ""},
		{"expired", "/api", bearer("bbbbbb.0123456789abcdef"), failure, ""},
		{"other usage", "/api", bearer("cccccc.0123456789abcdef"), failure, ""},
		{"bad group", "/api", bearer("dddddd.0123456789abcdef"), failure, ""},
		{"other type", "/api", bearer("eeeeee.0123456789abcdef"), failure, ""},
		{"no such token", "/api", bearer("ffffff.0123456789abcdef"), failure, ""},
		{"front proxy", "/api", front(certs.FrontProxyClient), "ann", "dev system:authenticated"},
		{"front proxy that is none", "/api", front(certs.Admin), "kubernetes-admin", "system:masters system:authenticated"},
		{"nobody", "/api", func(*http.Request) {}, nobody, ""},
		{"anonymous", "/healthz", func(*http.Request) {}, "system:anonymous", "system:unauthenticated"},
		{"anonymous", "/version", func(*http.Request) {}, "system:anonymous", "system:unauthenticated"},
		{"not below", "/readyz/etcd", func(*http.Request) {}, nobody, ""},
	} {
		r := httptest.NewRequest("GET", tc.path, nil)
		tc.change(r)
		resp, ok, err := auth.Request.AuthenticateRequest(r)
		switch {
		case tc.user == failure:
			if err == nil || ok {
				t.Errorf("%s: %v, want an error", tc.name, resp)
			}
		case tc.user == nobody:
			if err != nil || ok {
				t.Errorf("%s: %v, %v, want no opinion", tc.name, resp, err)
			}
		case err != nil || !ok:
			t.Errorf("%s: %v, %v", tc.name, ok, err)
		case resp.User.GetName() != tc.user || !slices.Equal(resp.User.GetGroups(), strings.Fields(tc.groups)):
			t.Errorf("%s: %s in %q, want %s in %q", tc.name, resp.User.GetName(), resp.User.GetGroups(), tc.user, tc.groups)
		}
	}

	// A TokenReview sees the groups that a request would have.
	resp, ok, err := auth.Token.AuthenticateToken(t.Context(), token)
	if err != nil || !ok || !slices.Contains(resp.User.GetGroups(), "system:authenticated") {
		t.Errorf("the token alone: %v, %v, %v; want system:authenticated among the groups", resp, ok, err)
	}
}

// A token that was deleted is refused at once: by whom it has served before, and by a watch cache that still has it.
func TestDeletedBootstrapToken(t *testing.T) {
	certs, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n", ClusterDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	secret := bootstrapSecret("aaaaaa", func(*corev1.Secret) {})
	client := fake.NewClientset(secret)
	auth, err := New(t.Context(), Config{ClientCA: certs.ClientCA, TokenKeys: certs.ServiceAccountKey.Public, Issuers: []string{"https://x"}, Client: client})
	if err != nil {
		t.Fatal(err)
	}
	try := func() bool {
		_, ok, _ := auth.Token.AuthenticateToken(t.Context(), "aaaaaa.0123456789abcdef")
		return ok
	}
	if !try() {
		t.Fatal("the token is refused")
	}
	client.PrependReactor("get", "secrets", func(action ktesting.Action) (bool, runtime.Object, error) {
		stale := action.(ktesting.GetActionImpl).GetOptions.ResourceVersion == "0"
		return stale, secret, nil
	})
	if err := client.CoreV1().Secrets(secret.Namespace).Delete(t.Context(), secret.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if try() {
		t.Error("the deleted token is taken")
	}
}
