// SPDX-License-Identifier: Apache-2.0

package satoken

import (
	"crypto"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// Paths under which others find out how to check our tokens.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

// keysMaxAge tells clients how long to keep the documents, in seconds.
const keysMaxAge = 3600

// discoveryDocument is OpenID Connect's, with what a verifier of tokens needs.
type discoveryDocument struct {
	Issuer                 string   `json:"issuer"`
	JWKSURI                string   `json:"jwks_uri"`
	ResponseTypesSupported []string `json:"response_types_supported"`
	SubjectTypesSupported  []string `json:"subject_types_supported"`
	SigningAlgs            []string `json:"id_token_signing_alg_values_supported"`
}

// Discovery returns the handlers of DiscoveryPath and KeysPath. issuer must be an https URL; the
// keys are said to be at jwksURI, or at the API server's external address ("host:port") if that is empty.
// Reference: https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata
func Discovery(issuer, jwksURI, externalAddress string, keys []crypto.PublicKey) (document, keySet http.Handler, err error) {
	if u, err := url.Parse(issuer); err != nil || u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return nil, nil, fmt.Errorf("issuer URL %q must be an https URL without query and fragment", issuer)
	}
	if jwksURI == "" {
		jwksURI = (&url.URL{Scheme: "https", Host: externalAddress, Path: KeysPath}).String()
	}
	set := jose.JSONWebKeySet{}
	var algs []string
	for _, key := range keys {
		jwk, err := publicJWK(key)
		if err != nil {
			return nil, nil, err
		}
		set.Keys = append(set.Keys, jwk)
		algs = append(algs, jwk.Algorithm)
	}
	slices.Sort(algs)
	if document, err = static("application/json", discoveryDocument{
		Issuer: issuer, JWKSURI: jwksURI, ResponseTypesSupported: []string{"id_token"},
		SubjectTypesSupported: []string{"public"}, SigningAlgs: slices.Compact(algs),
	}); err != nil {
		return nil, nil, err
	}
	keySet, err = static("application/jwk-set+json", set)
	return document, keySet, err
}

func static(contentType string, v any) (http.Handler, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", keysMaxAge))
		_, _ = w.Write(body) // a client that hung up needs no answer
	}), nil
}
