// SPDX-License-Identifier: Apache-2.0

package authentication

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
)

const api = "https://kubernetes.default.svc"

func meta(namespace, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
}

func newTokens(t *testing.T) (*Tokens, *tokenReviews) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := satoken.NewIssuer(api, key)
	if err != nil {
		t.Fatal(err)
	}
	objects := satoken.Live(fake.NewClientset(
		&corev1.ServiceAccount{ObjectMeta: meta("ns", "robot", "sa-1")},
		&corev1.Pod{ObjectMeta: meta("ns", "web", "pod-1"), Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "gone"}},
		&corev1.Pod{ObjectMeta: meta("ns", "other", "pod-2"), Spec: corev1.PodSpec{ServiceAccountName: "default"}},
	))
	audiences := authenticator.Audiences{api}
	auth, err := satoken.NewAuthenticator([]string{api}, []crypto.PublicKey{key.Public()}, audiences, objects)
	if err != nil {
		t.Fatal(err)
	}
	return &Tokens{Issuer: issuer, Objects: objects, Audiences: audiences, Extend: true}, &tokenReviews{Deps{Token: auth, Audiences: audiences}}
}

func TestTokenRequest(t *testing.T) {
	tokens, reviews := newTokens(t)
	pod := func(name, uid string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: name, UID: types.UID(uid)}
	}
	for _, tc := range []struct {
		name string
		req  authenticationv1.TokenRequest
		want string
	}{
		{"defaults", authenticationv1.TokenRequest{}, ""},
		{"bound", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: pod("web", "pod-1")}}, ""},
		{"short", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](599)}},
			"may not specify a duration less than 10 minutes"},
		{"long", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](1<<32 + 1)}},
			"may not specify a duration larger than 2^32 seconds"},
		{"another pod", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: pod("web", "pod-9")}},
			"the UID in the bound object reference (pod-9) does not match the UID in record"},
		{"a pod of somebody else", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: pod("other", "")}},
			`cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.`},
		{"no pod", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: pod("x", "")}}, `pods "x" not found`},
		{"other kind", authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "ConfigMap", APIVersion: "v1"}}},
			"cannot bind token to object of type /v1, Kind=ConfigMap"},
		{"other name", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, "must match the service account name if specified"},
		{"other UID", authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "x"}}, "the UID in the token request (x) does not match"},
	} {
		ctx := request.WithNamespace(t.Context(), "ns")
		obj, err := tokens.Create(ctx, "robot", &tc.req, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		made := obj.(*authenticationv1.TokenRequest)
		answer, err := reviews.Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: made.Status.Token}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		status := answer.(*authenticationv1.TokenReview).Status
		if !status.Authenticated || status.User.Username != "system:serviceaccount:ns:robot" || made.Name != "robot" || *made.Spec.ExpirationSeconds != 3600 {
			t.Errorf("%s: %+v, %+v", tc.name, made, status)
		}
		if tc.name == "bound" && status.User.Extra["authentication.kubernetes.io/node-name"][0] != "gone" {
			t.Errorf("the token does not say where its pod runs: %v", status.User.Extra)
		}
	}
}

// Pods' tokens of 3607 seconds last a year, but say to be renewed as asked.
func TestExtendedToken(t *testing.T) {
	tokens, _ := newTokens(t)
	sa := &corev1.ServiceAccount{ObjectMeta: meta("ns", "robot", "sa-1")}
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3607),
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "web"}}}
	made, err := tokens.CreateToken(t.Context(), sa, req)
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(made.Status.ExpirationTimestamp.Time); left > 3607*time.Second || left < 3600*time.Second {
		t.Errorf("status says %v", left)
	}
	parsed, err := satoken.Expiry(made.Status.Token)
	if err != nil || time.Until(parsed) < 364*24*time.Hour {
		t.Errorf("the token expires at %v, %v", parsed, err)
	}
	tokens.MaxSeconds = 3000
	if made, err = tokens.CreateToken(t.Context(), sa, req); err != nil || *made.Spec.ExpirationSeconds != 3000 {
		t.Errorf("with a limit: %+v, %v", made, err)
	}
}

func TestTokenReview(t *testing.T) {
	_, reviews := newTokens(t)
	if _, err := reviews.Create(t.Context(), &authenticationv1.TokenReview{}, nil, nil); err == nil {
		t.Error("a review without a token is no error")
	}
	obj, err := reviews.Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}}, nil, nil)
	if status := obj.(*authenticationv1.TokenReview).Status; err != nil || status.Authenticated || status.Error == "" {
		t.Errorf("%+v, %v", status, err)
	}
}

func TestSelfSubjectReview(t *testing.T) {
	ctx := request.WithUser(t.Context(), &user.DefaultInfo{Name: "ann", Groups: []string{"dev"}, Extra: map[string][]string{"k": {"v"}}})
	obj, err := (&selfSubjectReviews{}).Create(ctx, &authenticationv1.SelfSubjectReview{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if u := obj.(*authenticationv1.SelfSubjectReview).Status.UserInfo; u.Username != "ann" || u.Groups[0] != "dev" || u.Extra["k"][0] != "v" {
		t.Errorf("%+v", u)
	}
}
