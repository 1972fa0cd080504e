// SPDX-License-Identifier: Apache-2.0

// Package authn finds out who sent a request: by client certificate, by bearer token of a service
// account or of a joining node, or by the headers of a trusted front proxy. Only a few paths answer
// people who do not say who they are.
//
// The order is upstream's: front proxy, certificate, token. Whoever was recognised is in the group
// system:authenticated; a token that is wrong is an error and never makes an anonymous user.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
package authn

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/authn/satoken"
)

// AnonymousPaths are those that answer anybody unless Config says otherwise. The last is what a machine reads that
// is about to join, and to find out whether it speaks to the right cluster.
var AnonymousPaths = []string{"/livez", "/readyz", "/healthz", "/version", "/api/v1/namespaces/kube-public/configmaps/cluster-info"}

// FrontProxyHeaders are those that aggregated API servers are told to read, too.
var FrontProxyHeaders = struct{ User, UID, Group, ExtraPrefix string }{
	User: "X-Remote-User", UID: "X-Remote-Uid", Group: "X-Remote-Group", ExtraPrefix: "X-Remote-Extra-",
}

// tokenTTL is how long a token that was good is taken for good without a look.
const tokenTTL = 10 * time.Second

// Config says who is trusted.
type Config struct {
	ClientCA dynamiccertificates.CAContentProvider

	RequestHeaderCA   dynamiccertificates.CAContentProvider
	RequestHeaderUser []string // names that front proxies' certificates may have; any if empty

	Issuers   []string           // of service account tokens
	TokenKeys []crypto.PublicKey // their signers
	Audiences authenticator.Audiences
	Objects   satoken.Objects

	Client         kubernetes.Interface // reads bootstrap tokens
	AnonymousPaths []string             // AnonymousPaths if nil, nobody is anonymous if empty

	Metrics satoken.Registry // shows how often tokens of which kind were used; nil: nobody does

	File  string // an AuthenticationConfiguration: further issuers, and who may be anonymous; none if empty
	Flags Flags  // further ones
}

// Authenticators are the two questions there are: who sent this, and whose token is that.
type Authenticators struct {
	Request authenticator.Request
	Token   authenticator.Token // for TokenReviews

	file *structured // nil if there is none
}

// Follow takes over what changes in Config.File until ctx ends.
func (a *Authenticators) Follow(ctx context.Context) { a.file.follow(ctx) }

// New builds the chain. Keys of issuers in Config.File are fetched until ctx ends.
func New(ctx context.Context, c Config) (*Authenticators, error) {
	if c.ClientCA == nil {
		return nil, errors.New("authn: a client CA is needed")
	}
	serviceAccounts, err := satoken.NewAuthenticator(c.Issuers, c.TokenKeys, c.Audiences, c.Objects)
	if err != nil {
		return nil, err
	}
	if c.Metrics != nil {
		if err := serviceAccounts.Metrics.Register(c.Metrics); err != nil {
			return nil, fmt.Errorf("show metrics of tokens: %w", err)
		}
	}
	sources := []authenticator.Token{serviceAccounts}
	further, file, err := c.further(ctx)
	if err != nil {
		return nil, err
	}
	sources = append(sources, further...) // last: for a token that they do not know they may ask far away
	out := &Authenticators{file: file}
	tokens := tokenunion.New(
		// Not remembered: who is handed a token that was deleted is to be refused at once.
		authenticator.WrapAudienceAgnosticToken(c.Audiences, &bootstrapTokens{client: c.Client}),
		cache.New(tokenunion.New(sources...), true, tokenTTL, 0),
	)

	var chain []authenticator.Request
	if c.RequestHeaderCA != nil {
		chain = append(chain, authenticator.WrapAudienceAgnosticRequest(c.Audiences, c.frontProxy()))
	}
	chain = append(chain,
		newCertificates(c.ClientCA.VerifyOptions),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens))
	request := group.NewAuthenticatedGroupAdder(union.New(chain...))
	if conditions, ok := c.anonymous(file); ok {
		request = union.NewFailOnError(request, anonymous.NewAuthenticator(conditions))
	}
	out.Request, out.Token = request, group.NewTokenGroupAdder(tokens, []string{user.AllAuthenticated})
	return out, nil
}

// further are the tokens that a user's settings let in, upstream's order: those in a file, of issuers, of a webhook.
func (c Config) further(ctx context.Context) (sources []authenticator.Token, file *structured, err error) {
	if c.Flags.TokenFile != "" {
		tokens, err := c.Flags.remembered(c.Audiences)
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, tokens)
	}
	switch {
	case c.File != "":
		file, err = newStructured(ctx, c.File, c.Audiences, c.Issuers)
	case c.Flags.OIDC.IssuerURL != "":
		file, err = newFlagged(ctx, c.Flags.OIDC, c.Audiences, c.Issuers)
	}
	if err != nil {
		return nil, nil, err
	}
	if file != nil {
		sources = append(sources, file)
	}
	if c.Flags.WebhookFile != "" {
		tokens, err := c.Flags.asked(c.Audiences)
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, tokens)
	}
	return sources, file, nil
}

func (c Config) frontProxy() authenticator.Request {
	list := func(s ...string) headerrequest.StaticStringSlice { return s }
	return headerrequest.NewDynamicVerifyOptionsSecure(
		c.RequestHeaderCA.VerifyOptions,
		list(c.RequestHeaderUser...),
		list(FrontProxyHeaders.User),
		list(FrontProxyHeaders.UID),
		list(FrontProxyHeaders.Group),
		list(FrontProxyHeaders.ExtraPrefix),
	)
}

// anonymous tells whether anybody may be anonymous, and under which conditions (none: always).
func (c Config) anonymous(file *structured) ([]apiserver.AnonymousAuthCondition, bool) {
	if file != nil && file.anonymous != nil {
		return file.anonymous.Conditions, file.anonymous.Enabled
	}
	if all := c.Flags.Anonymous; all != nil {
		return nil, *all
	}
	paths := c.AnonymousPaths
	if paths == nil {
		paths = AnonymousPaths
	}
	conditions := make([]apiserver.AnonymousAuthCondition, len(paths))
	for i, path := range paths {
		conditions[i].Path = path
	}
	return conditions, len(conditions) > 0
}
