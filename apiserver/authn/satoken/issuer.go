// SPDX-License-Identifier: Apache-2.0

package satoken

import (
	"crypto"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Issuer signs tokens.
type Issuer struct {
	url    string
	signer jose.Signer
}

// NewIssuer signs with key as url, which is what the cluster calls itself in its tokens.
func NewIssuer(url string, key crypto.Signer) (*Issuer, error) {
	jwk, err := publicJWK(key.Public())
	if err != nil {
		return nil, err
	}
	algorithm := jose.SignatureAlgorithm(jwk.Algorithm)
	jwk.Key = key
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jwk}, nil)
	if err != nil {
		return nil, fmt.Errorf("make token signer: %w", err)
	}
	return &Issuer{url: url, signer: signer}, nil
}

// URL is the issuer's name.
func (i *Issuer) URL() string { return i.url }

// Bound describes a token: whom it is for, what it is bound to, and how long it lasts. Of Pod,
// Secret and Node at most one is what it is bound to; a Node next to a Pod only tells where that runs.
type Bound struct {
	ServiceAccount *corev1.ServiceAccount
	Pod            *corev1.Pod
	Secret         *corev1.Secret
	Node           *corev1.Node
	Audiences      []string
	Now            time.Time
	Expires        time.Duration
	WarnAfter      time.Duration // 0: never
}

// Issue makes a bound token and returns it with its ID.
func (i *Issuer) Issue(b Bound) (token, id string, err error) {
	id = uuid.NewString()
	public := publicClaims{
		Issuer:    i.url,
		ID:        id,
		Subject:   serviceaccount.MakeUsername(b.ServiceAccount.Namespace, b.ServiceAccount.Name),
		Audience:  b.Audiences,
		IssuedAt:  jwt.NewNumericDate(b.Now),
		NotBefore: jwt.NewNumericDate(b.Now),
		Expiry:    jwt.NewNumericDate(b.Now.Add(b.Expires)),
	}
	private := privateClaims{kubernetesClaims{
		Namespace:      b.ServiceAccount.Namespace,
		ServiceAccount: *refTo(b.ServiceAccount),
	}}
	if b.Pod != nil {
		private.Kubernetes.Pod = refTo(b.Pod)
	}
	if b.Secret != nil {
		private.Kubernetes.Secret = refTo(b.Secret)
	}
	if b.Node != nil {
		private.Kubernetes.Node = refTo(b.Node)
	}
	if b.WarnAfter != 0 {
		private.Kubernetes.WarnAfter = jwt.NewNumericDate(b.Now.Add(b.WarnAfter))
	}
	token, err = i.sign(private, public)
	return token, id, err
}

// IssueLegacy makes the token without an end that belongs into a Secret of type
// kubernetes.io/service-account-token.
func (i *Issuer) IssueLegacy(sa *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	return i.sign(legacyClaims{
		Namespace:          sa.Namespace,
		ServiceAccountName: sa.Name,
		ServiceAccountUID:  string(sa.UID),
		SecretName:         secret.Name,
	}, publicClaims{Issuer: legacyIssuer, Subject: serviceaccount.MakeUsername(sa.Namespace, sa.Name)})
}

func (i *Issuer) sign(private any, public publicClaims) (string, error) {
	token, err := jwt.Signed(i.signer).Claims(private).Claims(public).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return token, nil
}

func refTo(o metav1.Object) *ref { return &ref{Name: o.GetName(), UID: string(o.GetUID())} }
