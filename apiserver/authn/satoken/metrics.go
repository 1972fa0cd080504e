// SPDX-License-Identifier: Apache-2.0

package satoken

import (
	"errors"

	"k8s.io/component-base/metrics"
)

// Metrics counts the tokens that were used, by kube-apiserver's names. Until they are registered they cost next to nothing.
type Metrics struct {
	legacy            *metrics.Counter // that name no audience
	legacyManual      *metrics.Counter // whose Secret a person made
	legacyAuto        *metrics.Counter // whose Secret an old cluster made by itself
	legacyInvalidated *metrics.Counter
	valid, stale      *metrics.Counter // that pods should have replaced after an hour, and live for longer
}

// NewMetrics makes them.
func NewMetrics() *Metrics {
	counter := func(name, help string, level metrics.StabilityLevel) *metrics.Counter {
		return metrics.NewCounter(&metrics.CounterOpts{Subsystem: "serviceaccount", Name: name, Help: help, StabilityLevel: level})
	}
	return &Metrics{
		legacy:            counter("legacy_tokens_total", "Uses of tokens that are not for an audience.", metrics.BETA),
		legacyManual:      counter("legacy_manual_token_uses_total", "Uses of tokens of Secrets that were made by hand.", metrics.ALPHA),
		legacyAuto:        counter("legacy_auto_token_uses_total", "Uses of tokens of Secrets that were made by themselves.", metrics.ALPHA),
		legacyInvalidated: counter("invalid_legacy_auto_token_uses_total", "Uses of tokens of Secrets that have been made invalid.", metrics.ALPHA),
		valid:             counter("valid_tokens_total", "Uses of pods' tokens before they should have been replaced.", metrics.BETA),
		stale:             counter("stale_tokens_total", "Uses of pods' tokens after they should have been replaced.", metrics.BETA),
	}
}

// Registry takes metrics that are to be shown.
type Registry interface {
	Register(metrics.Registerable) error
}

// Register shows them.
func (m *Metrics) Register(to Registry) error {
	var errs []error
	for _, counter := range []*metrics.Counter{m.legacy, m.legacyManual, m.legacyAuto, m.legacyInvalidated, m.valid, m.stale} {
		errs = append(errs, to.Register(counter))
	}
	return errors.Join(errs...)
}
