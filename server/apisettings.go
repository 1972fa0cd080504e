// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
)

// APISettings are what a person can say about the API server. The names are those of kube-apiserver's flags.
type APISettings struct {
	MaxRequestsInFlight         int // 400; with the next one, how many requests are handled at once
	MaxMutatingRequestsInFlight int // 200
}

func defaultAPISettings() APISettings {
	return APISettings{MaxRequestsInFlight: 400, MaxMutatingRequestsInFlight: 200}
}

// check refuses what cannot work, with a line that says what to change.
func (s *APISettings) check() error {
	if s.MaxRequestsInFlight < 0 || s.MaxMutatingRequestsInFlight < 0 {
		return fmt.Errorf("there cannot be less than no request in flight (change --max-requests-inflight or --max-mutating-requests-inflight)")
	}
	return nil
}
