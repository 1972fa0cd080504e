// SPDX-License-Identifier: Apache-2.0

package dra

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// save writes what there is. The caller holds mu.
func (m *Manager) save() error {
	claims := slices.SortedFunc(maps.Values(m.claims), func(a, b *claim) int { return strings.Compare(string(a.UID), string(b.UID)) })
	data, err := json.Marshal(claims)
	if err != nil {
		return fmt.Errorf("encode prepared ResourceClaims: %w", err)
	}
	if err := os.WriteFile(m.file+".new", data, 0o600); err != nil {
		return fmt.Errorf("write prepared ResourceClaims: %w", err)
	}
	return os.Rename(m.file+".new", m.file)
}

// Load reads what an earlier process left prepared.
func (m *Manager) Load() error {
	data, err := os.ReadFile(m.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var claims []*claim
	if err == nil {
		err = json.Unmarshal(data, &claims)
	}
	if err != nil {
		return fmt.Errorf("read prepared ResourceClaims in %s: %w", m.file, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range claims {
		m.claims[c.UID] = c
	}
	return nil
}
