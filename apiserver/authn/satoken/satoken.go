// SPDX-License-Identifier: Apache-2.0

// Package satoken makes and checks the tokens of service accounts.
//
// A token is a JWT, signed with the cluster's key, whose claims are Kubernetes' own. It names the
// service account, may be bound to a Pod, Node or Secret, and stops being valid with any of them:
// the check looks each of them up by name and compares UIDs. Tokens without an end, as old Secrets
// of type kubernetes.io/service-account-token hold them, are accepted as long as that Secret holds them.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
package satoken

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// legacyIssuer is what tokens in Secrets call their issuer.
const legacyIssuer = "kubernetes/serviceaccount"

// publicClaims are JWT's own.
type publicClaims = jwt.Claims

// privateClaims are those of bound tokens.
type privateClaims struct {
	Kubernetes kubernetesClaims `json:"kubernetes.io,omitempty"`
}

type kubernetesClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount ref              `json:"serviceaccount,omitempty"`
	Pod            *ref             `json:"pod,omitempty"`
	Secret         *ref             `json:"secret,omitempty"`
	Node           *ref             `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// legacyClaims are those of tokens in Secrets.
type legacyClaims struct {
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name"`
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace"`
}

// algorithms are those that a cluster's key may have; nothing else is ever accepted.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// publicJWK is a key as verifiers see it.
func publicJWK(key crypto.PublicKey) (jose.JSONWebKey, error) {
	algorithm, err := algorithmOf(key)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	id, err := keyID(key)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	return jose.JSONWebKey{Key: key, KeyID: id, Algorithm: string(algorithm), Use: "sig"}, nil
}

func algorithmOf(key crypto.PublicKey) (jose.SignatureAlgorithm, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return jose.RS256, nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return jose.ES256, nil
		case elliptic.P384():
			return jose.ES384, nil
		case elliptic.P521():
			return jose.ES512, nil
		}
	}
	return "", fmt.Errorf("service account key is a %T, must be RSA or ECDSA with P-256, P-384 or P-521", key)
}

// keyID is the same for the same key everywhere and does not give the key away.
func keyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("identify service account key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// Expiry reads when a token ends, without checking it.
func Expiry(token string) (time.Time, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return time.Time{}, err
	}
	var claims publicClaims
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return time.Time{}, err
	}
	if claims.Expiry == nil {
		return time.Time{}, nil
	}
	return claims.Expiry.Time(), nil
}
