// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/server/options"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// APISettings are what a person can say about the API server. The names are those of kube-apiserver's flags.
type APISettings struct {
	MaxRequestsInFlight         int // 400; with the next one, how many requests are handled at once
	MaxMutatingRequestsInFlight int // 200

	RequestTimeout    time.Duration // of what is no watch or the like; a minute
	MinRequestTimeout int           // seconds that a watch lasts at least; 1800
	EventTTL          time.Duration // how long Events stay; an hour

	DisableAdmissionPlugins []string // names of those to leave out

	TLSMinVersion   string   // VersionTLS12 and so on
	TLSCipherSuites []string // all that are good if empty

	Issuers   []string // of service account tokens, the first makes them; one that is named for the cluster's domain if empty
	KeysURL   string   // of the first issuer's keys, as its discovery tells; this server's if empty
	Audiences []string // of tokens for this API; Issuers if empty

	Authentication authn.Flags
	Authorization  authz.Flags

	// Files; none if empty.
	AuthenticationConfig   string                // AuthenticationConfiguration
	AuthorizationConfig    string                // AuthorizationConfiguration
	EncryptionConfig       string                // EncryptionConfiguration
	ReloadEncryptionConfig bool                  // take over changes of the last one
	TracingConfig          string                // TracingConfiguration
	Audit                  *options.AuditOptions `json:"-"`
}

func defaultAPISettings() APISettings {
	return APISettings{
		MaxRequestsInFlight: 400, MaxMutatingRequestsInFlight: 200, RequestTimeout: time.Minute, MinRequestTimeout: 1800, EventTTL: time.Hour,
		Authentication: authn.DefaultFlags(), Authorization: authz.DefaultFlags(), Audit: options.NewAuditOptions(),
	}
}

// check refuses what cannot work, with a line that says what to change.
func (s *APISettings) check() error {
	if s.MaxRequestsInFlight < 0 || s.MaxMutatingRequestsInFlight < 0 {
		return errors.New("there cannot be less than no request in flight (change --max-requests-inflight or --max-mutating-requests-inflight)")
	}
	if s.RequestTimeout < time.Second || s.MinRequestTimeout < 1 || s.EventTTL < time.Second {
		return errors.New("--request-timeout, --min-request-timeout and --event-ttl must be a second or more")
	}
	if _, err := cliflag.TLSVersion(s.TLSMinVersion); err != nil {
		return fmt.Errorf("--tls-min-version: %w", err)
	}
	if _, err := cliflag.TLSCipherSuites(s.TLSCipherSuites); err != nil {
		return fmt.Errorf("--tls-cipher-suites: %w", err)
	}
	if err := s.Authentication.Check(s.AuthenticationConfig); err != nil {
		return err
	}
	if err := s.Authorization.Check(s.AuthorizationConfig); err != nil {
		return err
	}
	if s.ReloadEncryptionConfig && s.EncryptionConfig == "" {
		return errors.New("there is no encryption configuration to reload (set --encryption-provider-config too)")
	}
	if errs := s.Audit.Validate(); len(errs) > 0 {
		return fmt.Errorf("audit: %w", errors.Join(errs...))
	}
	return nil
}
