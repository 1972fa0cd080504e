// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/server/options"
)

// APISettings are what a person can say about the API server. The names are those of kube-apiserver's flags.
type APISettings struct {
	MaxRequestsInFlight         int // 400; with the next one, how many requests are handled at once
	MaxMutatingRequestsInFlight int // 200

	DisableAdmissionPlugins []string // names of those to leave out

	// Files; none if empty.
	AuthenticationConfig   string                // AuthenticationConfiguration
	AuthorizationConfig    string                // AuthorizationConfiguration
	EncryptionConfig       string                // EncryptionConfiguration
	ReloadEncryptionConfig bool                  // take over changes of the last one
	TracingConfig          string                // TracingConfiguration
	Audit                  *options.AuditOptions `json:"-"`
}

func defaultAPISettings() APISettings {
	return APISettings{MaxRequestsInFlight: 400, MaxMutatingRequestsInFlight: 200, Audit: options.NewAuditOptions()}
}

// check refuses what cannot work, with a line that says what to change.
func (s *APISettings) check() error {
	if s.MaxRequestsInFlight < 0 || s.MaxMutatingRequestsInFlight < 0 {
		return errors.New("there cannot be less than no request in flight (change --max-requests-inflight or --max-mutating-requests-inflight)")
	}
	if s.ReloadEncryptionConfig && s.EncryptionConfig == "" {
		return errors.New("there is no encryption configuration to reload (set --encryption-provider-config too)")
	}
	if errs := s.Audit.Validate(); len(errs) > 0 {
		return fmt.Errorf("audit: %w", errors.Join(errs...))
	}
	return nil
}
