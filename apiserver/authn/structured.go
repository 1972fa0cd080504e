// SPDX-License-Identifier: Apache-2.0

package authn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options/authenticationconfig/metrics"
	"k8s.io/apiserver/pkg/util/filesystem"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/klog/v2"
)

const (
	// lookAnyway is how often a file is looked at although nothing was heard of it, as upstream does.
	lookAnyway = time.Minute
	// issuersTimeout is how long new issuers may take to answer before their file is given up for now.
	issuersTimeout = 10 * time.Minute
	// oldIssuersStay is for requests that were under way when the file changed.
	oldIssuersStay = time.Minute
)

// structured recognizes tokens of the issuers in an AuthenticationConfiguration, and follows its file. What
// is said there about anonymous requests counts from the start and cannot be changed later.
// Reference: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#using-authentication-configuration
type structured struct {
	path      string
	audiences authenticator.Audiences
	reserved  []string // issuers that are not for the file to describe: our own
	compiler  authenticationcel.Compiler
	// algorithms are those that may sign tokens: all for a file.
	algorithms []string

	data      []byte                         // what was last read; only New and Follow touch it
	anonymous *apiserver.AnonymousAuthConfig // nil if the file says nothing
	issuers   atomic.Pointer[issuers]
}

// issuers are those of one state of the file.
type issuers struct {
	authenticator.Token
	checks []func() error
	stop   context.CancelFunc
}

// newStructured reads the file. Keys of issuers are fetched until ctx ends.
func newStructured(ctx context.Context, path string, audiences authenticator.Audiences, reserved []string) (*structured, error) {
	s := &structured{
		path: path, audiences: audiences, reserved: reserved, compiler: authenticationcel.NewDefaultCompiler(), algorithms: oidc.AllValidSigningAlgorithms(),
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the authentication configuration: %w", err)
	}
	config, err := s.parse(data)
	if err != nil {
		return nil, fmt.Errorf("read the authentication configuration %s: %w", path, err)
	}
	first, err := s.build(ctx, config)
	if err != nil {
		return nil, err
	}
	s.data, s.anonymous = data, config.Anonymous
	s.issuers.Store(first)
	return s, nil
}

// AuthenticateToken implements authenticator.Token.
func (s *structured) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return s.issuers.Load().AuthenticateToken(ctx, token)
}

func (s *structured) parse(data []byte) (*apiserver.AuthenticationConfiguration, error) {
	if len(data) == 0 {
		return nil, errors.New("it is empty")
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoded, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), data)
	if err != nil {
		return nil, err
	}
	config, ok := decoded.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("it is no AuthenticationConfiguration but %T", decoded)
	}
	return config, validation.ValidateAuthenticationConfiguration(s.compiler, config, s.reserved).ToAggregate()
}

func (s *structured) build(ctx context.Context, config *apiserver.AuthenticationConfiguration) (_ *issuers, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			stop()
		}
	}()
	out := &issuers{stop: stop}
	var tokens []authenticator.Token
	for _, jwt := range config.JWT {
		options := oidc.Options{
			JWTAuthenticator: jwt, SupportedSigningAlgs: s.algorithms, DisallowedIssuers: s.reserved, Compiler: s.compiler,
		}
		if jwt.Issuer.CertificateAuthority != "" {
			if options.CAContentProvider, err = dynamiccertificates.NewStaticCAContent("oidc-authenticator", []byte(jwt.Issuer.CertificateAuthority)); err != nil {
				return nil, fmt.Errorf("read the certificate authority of issuer %s: %w", jwt.Issuer.URL, err)
			}
		}
		issuer, err := oidc.New(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("recognize tokens of issuer %s: %w", jwt.Issuer.URL, err)
		}
		tokens = append(tokens, issuer)
		out.checks = append(out.checks, issuer.HealthCheck)
	}
	out.Token = authenticator.WrapAudienceAgnosticToken(s.audiences, tokenunion.NewFailOnError(tokens...))
	return out, nil
}

// follow takes over what changes in the file until ctx ends.
func (s *structured) follow(ctx context.Context) {
	metrics.RegisterMetrics()
	metrics.RecordAuthenticationConfigLastConfigInfo("", string(s.data))
	fail := func(err error) {
		klog.FromContext(ctx).Error(err, "The authentication configuration stays as it was", "file", s.path)
	}
	filesystem.WatchUntil(ctx, lookAnyway, s.path, func() {
		switch changed, err := s.reload(ctx); {
		case err != nil:
			metrics.RecordAuthenticationConfigAutomaticReloadFailure("")
			fail(err)
		case changed:
			metrics.RecordAuthenticationConfigAutomaticReloadSuccess("", string(s.data))
		}
	}, fail)
}

// reload takes over the file once all its issuers answer. Contents that can never work are not looked at again.
func (s *structured) reload(ctx context.Context) (changed bool, err error) {
	data, err := os.ReadFile(s.path)
	if err != nil || bytes.Equal(data, s.data) {
		return false, err
	}
	config, err := s.parse(data)
	if err == nil && !reflect.DeepEqual(config.Anonymous, s.anonymous) {
		err = errors.New("anonymous: changed from initial configuration file")
	}
	if err != nil {
		s.data = data
		return false, err
	}
	next, err := s.build(ctx, config)
	if err != nil {
		return false, err
	}
	if err := next.wait(ctx); err != nil {
		next.stop()
		return false, err
	}
	s.data = data
	old := s.issuers.Swap(next)
	time.AfterFunc(oldIssuersStay, old.stop)
	return true, nil
}

// wait returns when all issuers have answered.
func (i *issuers) wait(ctx context.Context) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, time.Second, issuersTimeout, true, func(context.Context) (bool, error) {
		var errs []error
		for _, check := range i.checks {
			errs = append(errs, check())
		}
		last = errors.Join(errs...)
		return last == nil, nil
	})
	if last != nil {
		return last
	}
	return err
}
