// SPDX-License-Identifier: Apache-2.0

// Package testimage makes container images for whole-node tests out of what the machine has: no registry of
// images can be reached.
package testimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// WriteBusybox writes an archive of an image named ref: Debian's busybox-static with a link for each of its
// applets, and the program fetch.
func WriteBusybox(path, ref string) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("name the image: %w", err)
	}
	image, err := busybox(ref)
	if err != nil {
		return fmt.Errorf("make image %s: %w", ref, err)
	}
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		return fmt.Errorf("write image %s: %w", ref, err)
	}
	return nil
}

func busybox(ref string) (v1.Image, error) {
	content, err := busyboxFiles()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.Architecture, config.OS = runtime.GOARCH, "linux"
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.Cmd = []string{"sh"}
	config.Config.Labels = map[string]string{"org.opencontainers.image.ref.name": ref} // images of other names are others
	return mutate.ConfigFile(image, config)
}

// busyboxFiles is the image's only layer, as a tar archive.
func busyboxFiles() ([]byte, error) {
	const path = "/bin/busybox"
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w (install Debian's busybox-static)", err)
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's applets: %w", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, dir := range []string{"bin/", "etc/", "root/", "home/"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}))
	}
	err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}))
	if err == nil {
		_, err = w.Write(program)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}))
		}
	}
	fetch, buildErr := fetchProgram()
	if err = errors.Join(err, buildErr); err == nil {
		err = w.WriteHeader(&tar.Header{Name: "bin/fetch", Mode: 0o755, Size: int64(len(fetch))})
	}
	if err == nil {
		_, err = w.Write(fetch)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("pack busybox: %w", err)
	}
	return out.Bytes(), nil
}

// fetchProgram builds command fetch.
func fetchProgram() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fetch")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "fetch")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "github.com/skiff-k8s/skiff/e2e/testimage/fetch")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build fetch: %w\n%s", err, out)
	}
	return os.ReadFile(path)
}
