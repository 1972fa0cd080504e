// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// save writes what there is. The caller holds mu.
func (m *Manager) save() error {
	m.count()
	claims := slices.SortedFunc(maps.Values(m.claims), func(a, b *claim) int { return strings.Compare(string(a.UID), string(b.UID)) })
	if err := checkpoint.Save(m.file, claims); err != nil {
		return fmt.Errorf("write prepared ResourceClaims: %w", err)
	}
	return nil
}

// Load reads what an earlier process left prepared.
func (m *Manager) Load() error {
	var claims []*claim
	if err := checkpoint.Load(m.file, &claims); err != nil {
		return fmt.Errorf("read prepared ResourceClaims in %s: %w", m.file, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range claims {
		m.claims[c.UID] = c
	}
	m.count()
	return nil
}

// count counts the claims by driver. The caller holds mu.
func (m *Manager) count() {
	m.counts.ClaimsInUse.Reset()
	m.counts.ClaimsInUse.WithLabelValues("<any>").Set(float64(len(m.claims)))
	for _, c := range m.claims {
		for _, driver := range c.Drivers {
			m.counts.ClaimsInUse.WithLabelValues(driver).Inc()
		}
	}
}
