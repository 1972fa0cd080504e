// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Allowlist names images without tags, or all of a repository ("registry.example.org/team/*").
type Allowlist []string

// ParseAllowlist checks patterns.
func ParseAllowlist(patterns []string) (Allowlist, error) {
	for _, pattern := range patterns {
		name, all := strings.CutSuffix(pattern, "/*")
		switch {
		case pattern != strings.TrimSpace(pattern):
			return nil, fmt.Errorf("leading/trailing spaces are not allowed: %s", pattern)
		case pattern == "":
			return nil, fmt.Errorf("the supplied pattern is too short: %s", pattern)
		case strings.Contains(name, "*"):
			return nil, fmt.Errorf("not a valid wildcard pattern, only patterns ending with '/*' are allowed: %s", pattern)
		case all && name == "":
			return nil, fmt.Errorf("at least registry hostname is required")
		case all:
			continue
		}
		if _, err := reference.Parse(name); err != nil {
			return nil, fmt.Errorf("failed to parse as an image name: %w", err)
		}
		if untagged(name) != name {
			return nil, fmt.Errorf("neither tag nor digest is accepted in an image reference: %s", pattern)
		}
	}
	return patterns, nil
}

// has says whether an image is on the list, by its name as it is written.
func (a Allowlist) has(image string) bool {
	name := untagged(image)
	return slices.ContainsFunc(a, func(pattern string) bool {
		prefix, all := strings.CutSuffix(pattern, "*")
		return name == pattern || all && strings.HasPrefix(name, prefix)
	})
}

// untagged is an image's name as it is written, without tag and digest.
func untagged(image string) string {
	parsed, err := reference.Parse(image)
	if err != nil {
		return image
	}
	if d, has := parsed.(reference.Digested); has {
		image = strings.TrimSuffix(image, "@"+d.Digest().String())
	}
	if t, has := parsed.(reference.Tagged); has {
		image = strings.TrimSuffix(image, ":"+t.Tag())
	}
	return image
}
