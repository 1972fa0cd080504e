// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
	"github.com/skiff-k8s/skiff/pki"
)

// provider is an OpenID Connect provider.
type provider struct {
	*httptest.Server
	key crypto.Signer
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{key: key}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL, p.URL+"/keys")
		case "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: p.key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": p.URL, "aud": "cluster", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// describe is the provider's part of an AuthenticationConfiguration, whose users are called prefix and so on.
func (p *provider) describe(prefix string) string {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	return fmt.Sprintf(`
- issuer: {url: %q, audiences: [cluster], certificateAuthority: %q}
  claimMappings:
    username: {claim: sub, prefix: %q}
    groups: {expression: 'claims.roles.split(",").map(r, "oidc:" + r)'}
  claimValidationRules: [{expression: 'claims.?guest.orValue(false) == false', message: guests stay out}]`, p.URL, ca, prefix)
}

const configurationHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

func configured(t *testing.T, ctx context.Context, file string) (*Authenticators, error) {
	t.Helper()
	return flagged(t, ctx, file, DefaultFlags())
}

func flagged(t *testing.T, ctx context.Context, file string, flags Flags) (*Authenticators, error) {
	t.Helper()
	certs, err := pki.New(pki.Config{Dir: t.TempDir(), NodeName: "n"})
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset()
	return New(ctx, Config{
		ClientCA: certs.ClientCA, Issuers: []string{issuer}, TokenKeys: certs.ServiceAccountKey.Public, Audiences: authenticator.Audiences{issuer},
		Objects: satoken.Live(client), Client: client, File: file, Flags: flags,
	})
}

// Users of an issuer in the file are recognized as it says; what changes in the file counts, unless it is wrong.
func TestStructuredConfiguration(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newProvider(t)
	file := filepath.Join(t.TempDir(), "authn.yaml")
	write := func(content string) {
		t.Helper()
		// As tools do it: whoever reads sees the old or the new one.
		if err := os.WriteFile(file+".new", []byte(configurationHead+content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	anonymous := "anonymous: {enabled: true, conditions: [{path: /public}]}\n"
	write(anonymous + "jwt:" + p.describe("first:"))
	auth, err := configured(t, ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path, token string) (*authenticator.Response, bool, error) {
		r := httptest.NewRequest("GET", path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return auth.Request.AuthenticateRequest(r)
	}
	eventually := func(what string, ok func() error) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for err := ok(); err != nil; err = ok() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	n := 0
	isCalled := func(want string) func() error {
		return func() error {
			n++ // a token of its own, for answers are kept
			resp, ok, err := ask("/api", p.token(t, map[string]any{"sub": "ann", "roles": "dev,ops", "jti": fmt.Sprint(n)}))
			if err != nil || !ok {
				return fmt.Errorf("%v, %w", ok, err)
			}
			if resp.User.GetName() != want || !slices.Equal(resp.User.GetGroups(), []string{"oidc:dev", "oidc:ops", "system:authenticated"}) {
				return fmt.Errorf("%s in %q", resp.User.GetName(), resp.User.GetGroups())
			}
			return nil
		}
	}
	eventually("the issuer's user", isCalled("first:ann"))
	if resp, ok, err := ask("/api", p.token(t, map[string]any{"sub": "bob", "roles": "", "guest": true})); err == nil || ok || !strings.Contains(err.Error(), "guests stay out") {
		t.Errorf("a token against the rules: %v, %v, %v; want the rule's message", resp, ok, err)
	}
	if resp, ok, err := ask("/api", newProvider(t).token(t, map[string]any{"sub": "ann", "roles": ""})); err == nil || ok {
		t.Errorf("a token of another issuer: %v, %v", resp, ok)
	}
	if resp, ok, _ := ask("/public", ""); !ok || resp.User.GetName() != "system:anonymous" {
		t.Errorf("anonymous at /public: %v, %v; want it allowed, as the file says", resp, ok)
	}
	if resp, ok, err := ask("/healthz", ""); ok || err != nil {
		t.Errorf("anonymous at /healthz: %v, %v; want no opinion, as the file says", resp, err)
	}

	done := make(chan struct{})
	go func() { defer close(done); auth.Follow(ctx) }()
	defer func() { cancel(); <-done }()
	write(anonymous + "jwt:" + p.describe("second:"))
	eventually("the new name", isCalled("second:ann"))
	write("jwt:" + p.describe("third:")) // who may be anonymous cannot change
	write(anonymous + "jwt: nonsense")
	if err := isCalled("second:ann")(); err != nil {
		t.Errorf("after files that are wrong: %v", err)
	}
	write(anonymous + "jwt:" + p.describe("fourth:"))
	eventually("the name after files that were wrong", isCalled("fourth:ann"))
}

// A file that cannot work ends the start, with upstream's words.
func TestStructuredConfigurationThatIsWrong(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"empty":         {"", "it is empty"},
		"another kind":  {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: []", "no AuthenticationConfiguration"},
		"unknown field": {configurationHead + "jwts: []", `unknown field "jwts"`},
		"our issuer":    {configurationHead + "jwt: [{issuer: {url: '" + issuer + "', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}]", "URL must not overlap with disallowed issuers"},
	} {
		file := filepath.Join(t.TempDir(), "authn.yaml")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := configured(t, t.Context(), file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
