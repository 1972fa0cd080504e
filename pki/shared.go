// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// shared are the files that all servers of a cluster have in common. Keys come before certificates, as always.
var shared = []string{
	"server-ca.key", "server-ca.crt", "kubelet-ca.key", "kubelet-ca.crt", "client-ca.key", "client-ca.crt",
	"request-header-ca.key", "request-header-ca.crt", "etcd/peer-ca.key", "etcd/peer-ca.crt", "sa.key", "sa.pub",
}

// Shared returns what another server has to have, by the names of files: authorities and the key of service accounts.
// What is not on this machine is left out.
func (p *PKI) Shared() (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range shared {
		data, err := os.ReadFile(filepath.Join(p.cfg.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read what servers share: %w", err)
		}
		out[name] = data
	}
	return out, nil
}

// Adopt puts what Shared of another server has returned below dir, for New to find it there. It refuses a dir that has
// keys of another cluster.
func Adopt(dir string, files map[string][]byte) error {
	for name, data := range files {
		if !slices.Contains(shared, name) {
			return fmt.Errorf("adopt the keys of a cluster: %q is none of them", name)
		}
		old, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && !bytes.Equal(old, data) {
			return fmt.Errorf("%s is of another cluster (skiff uninstall removes it)", filepath.Join(dir, name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("adopt the keys of a cluster: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "etcd"), 0o700); err != nil {
		return fmt.Errorf("make certificate directory: %w", err)
	}
	for _, name := range shared {
		data, ok := files[name]
		if !ok {
			continue
		}
		mode := fs.FileMode(0o644)
		if filepath.Ext(name) == ".key" {
			mode = 0o600
		}
		if err := writeFile(filepath.Join(dir, name), data, mode); err != nil {
			return err
		}
	}
	return nil
}
