// SPDX-License-Identifier: Apache-2.0

// Command build makes the file that package crds carries: `go run ./gateway/crds/build`, from the module's root. It holds the
// standard channel of the Gateway API in the version that go.mod names. Nothing is done when it is there already.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/skiff-k8s/skiff/gateway/crds"
)

const (
	module = "sigs.k8s.io/gateway-api"
	files  = "gateway/crds/files"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bundle the Gateway API:", err)
		os.Exit(1)
	}
}

func run() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("find module %s: %w", module, err)
	}
	version, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	inputs := filepath.Join(files, "inputs") // the version that the file was made from
	if have, err := os.ReadFile(inputs); err == nil && string(have) == version {
		return nil
	}
	manifests, err := collect(filepath.Join(dir, "config", "crd", "standard"))
	if err != nil {
		return err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(files, crds.File), encoder.EncodeAll(manifests, nil), 0o644); err != nil {
		return err
	}
	return os.WriteFile(inputs, []byte(version), 0o644)
}

// collect joins the manifests of a folder to one stream of YAML documents.
func collect(dir string) ([]byte, error) {
	var all bytes.Buffer
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	for _, entry := range entries {
		if filepath.Ext(entry.Name()) != ".yaml" || entry.Name() == "kustomization.yaml" {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("read manifest: %w", err)
		}
		fmt.Fprintf(&all, "---\n%s\n", content)
	}
	if all.Len() == 0 {
		return nil, errors.Join(fmt.Errorf("no manifests in %s", dir), fs.ErrNotExist)
	}
	return all.Bytes(), nil
}
