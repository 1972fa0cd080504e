// SPDX-License-Identifier: Apache-2.0

package satoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/kubernetes/fake"
)

const issuerURL = "https://kubernetes.default.svc.cluster.local"

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func meta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

var (
	account = &corev1.ServiceAccount{ObjectMeta: meta("ns", "robot", "sa-1")}
	pod     = &corev1.Pod{ObjectMeta: meta("ns", "web", "pod-1")}
	node    = &corev1.Node{ObjectMeta: meta("", "node-1", "node-uid")}
	secret  = &corev1.Secret{ObjectMeta: meta("ns", "key", "secret-1")}
)

type setup struct {
	issuer *Issuer
	auth   *Authenticator
	client *fake.Clientset
}

func newSetup(t *testing.T, key crypto.Signer, objects ...runtime.Object) *setup {
	t.Helper()
	issuer, err := NewIssuer(issuerURL, key)
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(objects...)
	auth, err := NewAuthenticator([]string{issuerURL}, []crypto.PublicKey{ecKey(t).Public(), key.Public()},
		authenticator.Audiences{issuerURL}, Live(client))
	if err != nil {
		t.Fatal(err)
	}
	return &setup{issuer, auth, client}
}

func (s *setup) issue(t *testing.T, b Bound) string {
	t.Helper()
	b.ServiceAccount = account
	if b.Now.IsZero() {
		b.Now = time.Now()
	}
	if b.Expires == 0 {
		b.Expires = time.Hour
	}
	if b.Audiences == nil {
		b.Audiences = []string{issuerURL}
	}
	token, id, err := s.issuer.Issue(b)
	if err != nil || id == "" {
		t.Fatal(id, err)
	}
	return token
}

func TestRoundTrip(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ECDSA": ecKey(t), "RSA": rsaKey} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, key, account, pod, node)
			resp, ok, err := s.auth.AuthenticateToken(t.Context(), s.issue(t, Bound{Pod: pod, Node: node}))
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			u := resp.User
			if u.GetName() != "system:serviceaccount:ns:robot" || u.GetUID() != "sa-1" ||
				!slices.Equal(u.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns"}) {
				t.Errorf("user = %+v", u)
			}
			for key, want := range map[string]string{
				"authentication.kubernetes.io/pod-name": "web", "authentication.kubernetes.io/pod-uid": "pod-1",
				"authentication.kubernetes.io/node-name": "node-1", "authentication.kubernetes.io/node-uid": "node-uid",
			} {
				if got := u.GetExtra()[key]; !slices.Equal(got, []string{want}) {
					t.Errorf("%s = %q, want %q", key, got, want)
				}
			}
			if id := u.GetExtra()["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
				t.Errorf("credential ID = %q", id)
			}
			if !slices.Equal(resp.Audiences, authenticator.Audiences{issuerURL}) {
				t.Errorf("audiences = %q", resp.Audiences)
			}
		})
	}
}

// A token is only as good as what it names.
func TestInvalidated(t *testing.T) {
	longAgo := metav1.NewTime(time.Now().Add(-time.Hour))
	dying := func(m metav1.ObjectMeta) metav1.ObjectMeta {
		m.DeletionTimestamp, m.Finalizers = &longAgo, []string{"x/y"}
		return m
	}
	for _, tc := range []struct {
		name    string
		bound   Bound
		objects []runtime.Object
		want    string
	}{
		{"no service account", Bound{}, nil, `serviceaccounts "robot" not found`},
		{"another service account", Bound{}, []runtime.Object{&corev1.ServiceAccount{ObjectMeta: meta("ns", "robot", "sa-2")}},
			"service account UID (sa-2) does not match claim (sa-1)"},
		{"dying service account", Bound{}, []runtime.Object{&corev1.ServiceAccount{ObjectMeta: dying(account.ObjectMeta)}},
			"service account ns/robot has been deleted"},
		{"no pod", Bound{Pod: pod}, []runtime.Object{account}, "service account token has been invalidated"},
		{"another pod", Bound{Pod: pod}, []runtime.Object{account, &corev1.Pod{ObjectMeta: meta("ns", "web", "pod-2")}},
			"pod UID (pod-2) does not match service account pod ref claim (pod-1)"},
		{"dying pod", Bound{Pod: pod}, []runtime.Object{account, &corev1.Pod{ObjectMeta: dying(pod.ObjectMeta)}},
			"service account token has been invalidated"},
		{"another secret", Bound{Secret: secret}, []runtime.Object{account, &corev1.Secret{ObjectMeta: meta("ns", "key", "x")}},
			"secret UID (x) does not match service account secret ref claim (secret-1)"},
		{"no node", Bound{Node: node}, []runtime.Object{account}, "service account token has been invalidated"},
		{"the node of a pod", Bound{Pod: pod, Node: node}, []runtime.Object{account, pod}, ""},
		{"expired", Bound{Now: time.Now().Add(-2 * time.Hour)}, []runtime.Object{account}, "service account token has expired"},
		{"early", Bound{Now: time.Now().Add(time.Hour)}, []runtime.Object{account}, "service account token is not valid yet"},
		{"other audience", Bound{Audiences: []string{"vault"}}, []runtime.Object{account},
			`token audiences ["vault"] is invalid for the target audiences ["` + issuerURL + `"]`},
	} {
		s := newSetup(t, ecKey(t), tc.objects...)
		_, ok, err := s.auth.AuthenticateToken(t.Context(), s.issue(t, tc.bound))
		if tc.want == "" && (err != nil || !ok) || tc.want != "" && (ok || err == nil || err.Error() != tc.want) {
			t.Errorf("%s: %v, %v, want %q", tc.name, ok, err, tc.want)
		}
	}
}

func TestAudienceOfRequest(t *testing.T) {
	s := newSetup(t, ecKey(t), account)
	token := s.issue(t, Bound{Audiences: []string{"vault", "db"}})
	ctx := authenticator.WithAudiences(t.Context(), authenticator.Audiences{"vault", "x"})
	resp, ok, err := s.auth.AuthenticateToken(ctx, token)
	if !ok || err != nil || !slices.Equal(resp.Audiences, authenticator.Audiences{"vault"}) {
		t.Errorf("%+v, %v, %v", resp, ok, err)
	}
}

// Tokens of others are left to others; forged ones are errors.
func TestForeignTokens(t *testing.T) {
	s := newSetup(t, ecKey(t), account)
	other := newSetup(t, ecKey(t), account)
	foreign, err := NewIssuer("https://elsewhere.example", ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, _, err := foreign.Issue(Bound{ServiceAccount: account, Now: time.Now(), Expires: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	none := "eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMuY2x1c3Rlci5sb2NhbCJ9."
	for name, token := range map[string]string{"garbage": "abc", "another issuer": elsewhere, "no signature": none} {
		if _, ok, err := s.auth.AuthenticateToken(t.Context(), token); ok || err != nil {
			t.Errorf("%s: %v, %v, want no opinion", name, ok, err)
		}
	}
	if _, ok, err := s.auth.AuthenticateToken(t.Context(), other.issue(t, Bound{})); ok || err == nil {
		t.Errorf("a forged token: %v, %v", ok, err)
	}
}

func TestLegacyToken(t *testing.T) {
	stored := secret.DeepCopy()
	stored.Type = corev1.SecretTypeServiceAccountToken
	s := newSetup(t, ecKey(t), account, stored)
	token, err := s.issuer.IssueLegacy(account, stored)
	if err != nil {
		t.Fatal(err)
	}
	authenticate := func() error {
		_, ok, err := s.auth.AuthenticateToken(t.Context(), token)
		if err == nil && !ok {
			t.Error("no opinion on a legacy token")
		}
		return err
	}
	update := func(change func(*corev1.Secret)) {
		live, err := s.client.CoreV1().Secrets("ns").Get(t.Context(), "key", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(live)
		if _, err := s.client.CoreV1().Secrets("ns").Update(t.Context(), live, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := authenticate(); err == nil || err.Error() != "Token does not match server's copy" {
		t.Errorf("with an empty secret: %v", err)
	}
	update(func(s *corev1.Secret) { s.Data = map[string][]byte{"token": []byte(token)} })
	if err := authenticate(); err != nil {
		t.Error(err)
	}
	live, _ := s.client.CoreV1().Secrets("ns").Get(t.Context(), "key", metav1.GetOptions{})
	if live.Labels[lastUsedLabel] != time.Now().UTC().Format(time.DateOnly) {
		t.Errorf("labels = %v, want the day of use", live.Labels)
	}
	update(func(s *corev1.Secret) { s.Labels[invalidSinceLabel] = "2026-01-01" })
	if err := authenticate(); err == nil || !strings.Contains(err.Error(), "has been marked invalid") {
		t.Errorf("marked invalid: %v", err)
	}
	if err := s.client.CoreV1().Secrets("ns").Delete(context.Background(), "key", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := authenticate(); err == nil || err.Error() != "Token has been invalidated" {
		t.Errorf("without the secret: %v", err)
	}
}

// Whoever reads the two documents can check a token.
func TestDiscovery(t *testing.T) {
	key := ecKey(t)
	document, keySet, err := Discovery(issuerURL, "", "192.0.2.1:6443", []crypto.PublicKey{key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	document.ServeHTTP(w, httptest.NewRequest("GET", DiscoveryPath, nil))
	want := `{"issuer":"` + issuerURL + `","jwks_uri":"https://192.0.2.1:6443/openid/v1/jwks","response_types_supported":["id_token"],` +
		`"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	if w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("discovery = %s (%s)", w.Body, w.Header())
	}
	w = httptest.NewRecorder()
	keySet.ServeHTTP(w, httptest.NewRequest("GET", KeysPath, nil))
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 || !set.Keys[0].IsPublic() {
		t.Errorf("keys = %s, %v", w.Body, err)
	}
	if w.Header().Get("Content-Type") != "application/jwk-set+json" || w.Header().Get("Cache-Control") != "public, max-age=3600" {
		t.Errorf("headers = %s", w.Header())
	}
	if _, _, err := Discovery("http://insecure", "", "x", nil); err == nil {
		t.Error("an issuer without https is no error")
	}
}
