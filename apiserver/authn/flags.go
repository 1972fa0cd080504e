// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
)

// Flags are further ways to recognize tokens. They are called as kube-apiserver's.
type Flags struct {
	OIDC OIDC

	TokenFile string // --token-auth-file: lines of token,user,uid,"group,..."

	WebhookFile    string        // --authentication-token-webhook-config-file: a kubeconfig
	WebhookVersion string        // of TokenReview
	WebhookTTL     time.Duration // how long its answers count

	// Anonymous lets all requests be anonymous, or none (nil: those for AnonymousPaths).
	Anonymous *bool
}

// DefaultFlags are those where nothing was said.
func DefaultFlags() Flags {
	return Flags{
		OIDC:           OIDC{UsernameClaim: "sub", SigningAlgorithms: []string{"RS256"}},
		WebhookVersion: "v1beta1", WebhookTTL: 2 * time.Minute,
	}
}

// OIDC is an OpenID Connect issuer as the flags of old describe it; an AuthenticationConfiguration says more.
type OIDC struct {
	IssuerURL, ClientID, CAFile   string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	RequiredClaims                map[string]string
	SigningAlgorithms             []string
}

// Check refuses what cannot work. file is an AuthenticationConfiguration, if there is one.
func (f *Flags) Check(file string) error {
	if (f.OIDC.IssuerURL == "") != (f.OIDC.ClientID == "") {
		return errors.New("--oidc-issuer-url and --oidc-client-id must be specified together")
	}
	if f.OIDC.IssuerURL != "" && file != "" {
		return errors.New("authentication-config file and oidc-* flags are mutually exclusive")
	}
	return nil
}

// jwt is the issuer as a configuration file would describe it.
func (o *OIDC) jwt() (apiserver.JWTAuthenticator, error) {
	prefix := o.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && o.UsernameClaim != "email":
		prefix = o.IssuerURL + "#"
	}
	out := apiserver.JWTAuthenticator{
		Issuer:        apiserver.Issuer{URL: o.IssuerURL, Audiences: []string{o.ClientID}},
		ClaimMappings: apiserver.ClaimMappings{Username: apiserver.PrefixedClaimOrExpression{Claim: o.UsernameClaim, Prefix: &prefix}},
	}
	if o.GroupsClaim != "" {
		out.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Claim: o.GroupsClaim, Prefix: &o.GroupsPrefix}
	}
	for claim, value := range o.RequiredClaims {
		out.ClaimValidationRules = append(out.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	if o.CAFile != "" {
		ca, err := os.ReadFile(o.CAFile)
		if err != nil {
			return out, fmt.Errorf("read --oidc-ca-file: %w", err)
		}
		out.Issuer.CertificateAuthority = string(ca)
	}
	return out, nil
}

// newFlagged recognizes tokens of the issuer that flags describe. Its keys are fetched until ctx ends.
func newFlagged(ctx context.Context, o OIDC, audiences authenticator.Audiences, reserved []string) (*structured, error) {
	s := &structured{audiences: audiences, reserved: reserved, compiler: authenticationcel.NewDefaultCompiler(), algorithms: o.SigningAlgorithms}
	jwt, err := o.jwt()
	if err != nil {
		return nil, err
	}
	config := &apiserver.AuthenticationConfiguration{JWT: []apiserver.JWTAuthenticator{jwt}}
	if errs := validation.ValidateAuthenticationConfiguration(s.compiler, config, reserved); len(errs) > 0 {
		return nil, fmt.Errorf("set up the issuer of the flags --oidc-*: %w", errs.ToAggregate())
	}
	issuers, err := s.build(ctx, config)
	if err != nil {
		return nil, err
	}
	s.issuers.Store(issuers)
	return s, nil
}

// remembered knows the tokens in a file.
func (f *Flags) remembered(audiences authenticator.Audiences) (authenticator.Token, error) {
	tokens, err := tokenfile.NewCSV(f.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("read --token-auth-file: %w", err)
	}
	return authenticator.WrapAudienceAgnosticToken(audiences, tokens), nil
}

// asked asks a webhook whose token it is.
func (f *Flags) asked(audiences authenticator.Audiences) (authenticator.Token, error) {
	config, err := webhookutil.LoadKubeconfig(f.WebhookFile, nil)
	if err != nil {
		return nil, fmt.Errorf("read --authentication-token-webhook-config-file: %w", err)
	}
	tokens, err := webhook.New(config, f.WebhookVersion, audiences, *genericoptions.DefaultAuthWebhookRetryBackoff())
	if err != nil {
		return nil, fmt.Errorf("recognize tokens by webhook: %w", err)
	}
	return cache.New(tokens, false, f.WebhookTTL, f.WebhookTTL), nil
}
