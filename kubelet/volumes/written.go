// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// write is what configMap, secret, downwardAPI and projected volumes share: a directory, in memory
// or on disk, whose files follow the API.
func (m *Manager) write(v *volume, files map[string]file, inMemory bool) (mounted, error) {
	at, err := isMountPoint(v.dir)
	if err != nil {
		return mounted{}, err
	}
	if !at {
		if err := makeOpenDir(v.dir); err != nil {
			return mounted{}, err
		}
	}
	if !at && inMemory {
		if err := m.mountTmpfs(v.dir, v.pod, nil); err != nil {
			return mounted{}, err
		}
	}
	if err := makeNested(v); err != nil {
		return mounted{}, err
	}
	own := func() error { return setOwnership(v.dir, v.fsGroup(), true, nil) }
	if err := writeFiles(v.dir, files, own); err != nil {
		return mounted{}, err
	}
	return mounted{path: v.dir, readOnly: true, follows: true}, nil
}

// makeNested makes the directories at which containers mount other volumes inside of v: v is
// read-only for them, so the runtime could not.
func makeNested(v *volume) error {
	var root *os.Root
	for c := range podcontainers.All(v.pod) {
		for _, path := range nestedIn(c, v.source.Name) {
			if root == nil {
				var err error
				if root, err = os.OpenRoot(v.dir); err != nil {
					return err
				}
				defer root.Close()
			}
			if err := root.MkdirAll(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("unable to create nested volume mountpoints: %w", err)
			}
		}
	}
	return nil
}

// nestedIn returns where, relative to the volume, c mounts something right below it.
func nestedIn(c *corev1.Container, volume string) []string {
	var all, own []string
	for i := range c.VolumeMounts {
		at := filepath.Clean(c.VolumeMounts[i].MountPath)
		all = append(all, at+"/")
		if c.VolumeMounts[i].Name == volume {
			own = append(own, at+"/")
		}
	}
	slices.Sort(all)
	var nested []string
	for _, base := range own {
		var above []string // what was found below base; mounts below these are not base's business
		for _, at := range all {
			if at == base || !strings.HasPrefix(at, base) || slices.ContainsFunc(above, func(a string) bool { return strings.HasPrefix(at, a) }) {
				continue
			}
			above = append(above, at)
			nested = append(nested, strings.TrimSuffix(at[len(base):], "/"))
		}
	}
	return nested
}
