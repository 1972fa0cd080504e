// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"
)

// await asks until a token is recognized: keys of issuers are fetched in the background.
func await(t *testing.T, a *Authenticators, token string) (name string, groups []string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if response, ok, _ := a.Token.AuthenticateToken(t.Context(), token); ok {
			return response.User.GetName(), response.User.GetGroups()
		}
	}
	t.Fatal("not recognized")
	return "", nil
}

// The flags --oidc-* describe an issuer as kube-apiserver's do.
func TestOIDCByFlags(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := newProvider(t)
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*OIDC)
		want   string
		groups []string
	}{
		{"by default", func(*OIDC) {}, p.URL + "#alice", nil},
		{"with a prefix", func(o *OIDC) { o.UsernamePrefix = "oidc:" }, "oidc:alice", nil},
		{"without a prefix", func(o *OIDC) { o.UsernamePrefix = "-" }, "alice", nil},
		{"by mail", func(o *OIDC) { o.UsernameClaim = "email" }, "alice@example.com", nil},
		{"with groups", func(o *OIDC) { o.GroupsClaim, o.GroupsPrefix = "teams", "team:" }, p.URL + "#alice", []string{"team:a", "team:b"}},
		{"with a claim", func(o *OIDC) { o.RequiredClaims = map[string]string{"hd": "example.com"} }, p.URL + "#alice", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags := DefaultFlags()
			flags.OIDC.IssuerURL, flags.OIDC.ClientID, flags.OIDC.CAFile, flags.OIDC.SigningAlgorithms = p.URL, "cluster", ca, []string{"ES256"}
			c.change(&flags.OIDC)
			a, err := flagged(t, ctx, "", flags)
			if err != nil {
				t.Fatal(err)
			}
			name, groups := await(t, a, p.token(t, map[string]any{
				"sub": "alice", "email": "alice@example.com", "email_verified": true, "teams": []string{"a", "b"}, "hd": "example.com",
			}))
			if want := append(c.groups, "system:authenticated"); name != c.want || !slices.Equal(groups, want) {
				t.Errorf("%s of %v, want %s of %v", name, groups, c.want, want)
			}
			if len(flags.OIDC.RequiredClaims) == 0 {
				return
			}
			if _, ok, _ := a.Token.AuthenticateToken(ctx, p.token(t, map[string]any{"sub": "bob"})); ok {
				t.Error("bob has no such claim, and is let in")
			}
		})
	}
}

// A webhook is asked last, and what it says counts for a while; tokens in a file come first.
func TestTokensOfAFileAndOfAWebhook(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Status.Authenticated = review.Spec.Token == "eve's"
		review.Status.User = authenticationv1.UserInfo{Username: "eve", Groups: []string{"hooked"}}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer server.Close()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c"}
	config.CurrentContext = "c"
	flags := DefaultFlags()
	flags.WebhookFile, flags.WebhookVersion = filepath.Join(t.TempDir(), "webhook.kubeconfig"), "v1"
	if err := clientcmd.WriteToFile(*config, flags.WebhookFile); err != nil {
		t.Fatal(err)
	}
	flags.TokenFile = filepath.Join(t.TempDir(), "tokens.csv")
	if err := os.WriteFile(flags.TokenFile, []byte("alice's,alice,1,\"a,b\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := flagged(t, t.Context(), "", flags)
	if err != nil {
		t.Fatal(err)
	}
	if name, groups := await(t, a, "alice's"); name != "alice" || !slices.Equal(groups, []string{"a", "b", "system:authenticated"}) || asked.Load() != 0 {
		t.Errorf("%s of %v, the webhook was asked %d times", name, groups, asked.Load())
	}
	for range 3 {
		if name, groups := await(t, a, "eve's"); name != "eve" || !slices.Equal(groups, []string{"hooked", "system:authenticated"}) {
			t.Errorf("%s of %v", name, groups)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the webhook was asked %d times", n)
	}
	if _, ok, _ := a.Token.AuthenticateToken(t.Context(), "nobody's"); ok {
		t.Error("nobody is let in")
	}
}

func TestAnonymousByFlag(t *testing.T) {
	for _, c := range []struct {
		flag *bool
		path string
		want bool
	}{{nil, "/version", true}, {nil, "/api", false}, {ptr.To(true), "/api", true}, {ptr.To(false), "/version", false}} {
		flags := DefaultFlags()
		flags.Anonymous = c.flag
		a, err := flagged(t, t.Context(), "", flags)
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := a.Request.AuthenticateRequest(httptest.NewRequest(http.MethodGet, c.path, nil))
		if err != nil || got != c.want {
			t.Errorf("%v %s: %v, %v", c.flag, c.path, got, err)
		}
	}
}

func TestFlagsThatCannotWork(t *testing.T) {
	for want, change := range map[string]func(*Flags){
		"":                           func(*Flags) {},
		"must be specified together": func(f *Flags) { f.OIDC.IssuerURL = "https://x" },
		"--token-auth-file":          func(f *Flags) { f.TokenFile = "/none" },
		"--oidc-ca-file":             func(f *Flags) { f.OIDC.IssuerURL, f.OIDC.ClientID, f.OIDC.CAFile = "https://x", "c", "/none" },
		"URL scheme must be https":   func(f *Flags) { f.OIDC.IssuerURL, f.OIDC.ClientID = "http://x", "c" },
		"token-webhook-config-file":  func(f *Flags) { f.WebhookFile = "/none" },
		`unsupported signing alg: "xyz"`: func(f *Flags) {
			f.OIDC.IssuerURL, f.OIDC.ClientID, f.OIDC.SigningAlgorithms = "https://x", "c", []string{"xyz"}
		},
	} {
		flags := DefaultFlags()
		change(&flags)
		err := flags.Check("")
		if err == nil {
			_, err = flagged(t, t.Context(), "", flags)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	flags := DefaultFlags()
	flags.OIDC.IssuerURL, flags.OIDC.ClientID = "https://x", "c"
	if err := flags.Check("/a/file"); err == nil {
		t.Error("a file and flags are taken")
	}
}
