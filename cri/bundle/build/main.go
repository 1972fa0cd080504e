// SPDX-License-Identifier: Apache-2.0

// Command build makes the files that package bundle carries: `go run ./cri/bundle/build`, from the
// module's root. What is up to date is not built again. It needs gcc and libseccomp-dev, because runc
// applies seccomp profiles with libseccomp.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/skiff-k8s/skiff/cri/bundle"
)

const (
	files    = "cri/bundle/files"
	pauseRef = "localhost/skiff/pause:1"
)

// recipe says how one file is made and what from.
type recipe struct {
	name   string
	inputs []string // files and folders that it is built from, besides the commands in build
	build  func(out string) error
}

var programs = []recipe{
	{
		name:   "runc",
		inputs: []string{"cri/bundle/runc"},
		build: func(out string) error {
			// Without the tag `seccomp` runc would refuse every container with a seccomp profile.
			return goBuild("cri/bundle/runc", out, "github.com/opencontainers/runc", []string{"CGO_ENABLED=1"},
				"-mod=readonly", "-tags=seccomp,urfave_cli_no_docs,netgo,osusergo",
				"-ldflags=-s -w -linkmode external -extldflags -static")
		},
	},
	{
		name:   "containerd-shim-runc-v2",
		inputs: []string{"cri/bundle/shim", "go.mod", "go.sum"},
		build:  buildShim,
	},
	{
		name:   "thincni",
		inputs: []string{"network/thincni"},
		build: func(out string) error {
			return goBuild(".", out, "./network/thincni", []string{"CGO_ENABLED=0"}, "-ldflags=-s -w")
		},
	},
}

var pause = recipe{name: "pause.tar", inputs: []string{"cri/bundle/pause"}, build: buildPause}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the runtime bundle:", err)
		os.Exit(1)
	}
}

func run() error {
	if _, err := os.Stat("cri/bundle/bundle.go"); err != nil {
		return errors.New("must run in the root of the module")
	}
	old, err := readIndex()
	if err != nil {
		return err
	}
	index := bundle.Index{PauseRef: pauseRef}
	for _, r := range programs {
		if _, err := os.Stat(r.inputs[0]); errors.Is(err, fs.ErrNotExist) {
			fmt.Println("leaving out", r.name+", as there is no", r.inputs[0])
			continue
		}
		f, err := r.make(old.Programs)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		index.Programs = append(index.Programs, f)
	}
	if index.Pause, err = pause.make([]bundle.File{old.Pause}); err != nil {
		return fmt.Errorf("pause image: %w", err)
	}
	return writeIndex(index)
}

// readIndex reads what the last run made. A file that is missing counts as never made.
func readIndex() (bundle.Index, error) {
	var index bundle.Index
	raw, err := os.ReadFile(filepath.Join(files, "index.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return index, err
	}
	return index, json.Unmarshal(raw, &index)
}

func writeIndex(index bundle.Index) error {
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(files, "index.json")
	if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, raw) {
		return nil // an untouched file lets go build keep what it has cached
	}
	return os.WriteFile(path, raw, 0o644)
}

// make returns the file, built only if its inputs differ from those of the one that exists.
func (r recipe) make(existing []bundle.File) (bundle.File, error) {
	inputs, err := r.hashInputs()
	if err != nil {
		return bundle.File{}, err
	}
	blob := filepath.Join(files, r.name+".zst")
	f := bundle.File{Name: r.name, Inputs: inputs}
	at := slices.IndexFunc(existing, func(f bundle.File) bool { return f.Name == r.name })
	if _, err := os.Stat(blob); err != nil {
		at = -1
	}
	if at >= 0 && existing[at].Inputs == inputs {
		return existing[at], nil
	}
	fmt.Println("building", r.name)
	dir, err := os.MkdirTemp("", "bundle-")
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, r.name)
	if err := r.build(out); err != nil {
		return f, err
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		return f, err
	}
	f.SHA256 = hash(raw)
	if at >= 0 && existing[at].SHA256 == f.SHA256 {
		return f, nil
	}
	return f, compress(blob, raw)
}

func (r recipe) hashInputs() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	for _, input := range append([]string{"cri/bundle/build"}, r.inputs...) {
		err := filepath.WalkDir(input, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			raw, err := os.ReadFile(path)
			fmt.Fprintln(h, path, hash(raw))
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hash(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func compress(path string, raw []byte) error {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(bundle.WindowSize))
	if err != nil {
		return err
	}
	return os.WriteFile(path, e.EncodeAll(raw, nil), 0o644)
}

// goBuild builds a main package of the module in dir.
func goBuild(dir, out, pkg string, env []string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-o", out}, flags...)
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off"), env...)
	return runCommand(cmd)
}

// The line of containerd by which a shim begins to collect garbage for ever, and where a copy without it is made. The path is
// always the same: it gets into the program.
const (
	containerd   = "github.com/containerd/containerd/v2"
	shimFile     = "pkg/shim/shim.go"
	shimTicks    = "\n\tsetRuntime()\n"
	patchedDir   = "bin/shim/containerd"
	patchedGoMod = "bin/shim/go.mod"
)

// buildShim builds the shim with a containerd that lets it rest.
func buildShim(out string) error {
	defer os.RemoveAll(filepath.Dir(patchedGoMod))
	if err := patchContainerd(); err != nil {
		return fmt.Errorf("patch containerd: %w", err)
	}
	return goBuild(".", out, "./cri/bundle/shim", []string{"CGO_ENABLED=0"}, "-modfile="+patchedGoMod, "-tags=no_grpc", "-ldflags=-s -w")
}

// patchContainerd copies containerd's module without the line, and makes a go.mod that replaces the one by the other.
func patchContainerd() error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", containerd).Output()
	if err != nil {
		return fmt.Errorf("find containerd's source: %w", err)
	}
	source := os.DirFS(strings.TrimSpace(string(dir)))
	raw, err := fs.ReadFile(source, shimFile)
	if err != nil {
		return err
	}
	if n := bytes.Count(raw, []byte(shimTicks)); n != 1 {
		return fmt.Errorf("%s has the line %q %d times: see how this containerd collects the garbage of a shim", shimFile, strings.TrimSpace(shimTicks), n)
	}
	patched := filepath.Join(patchedDir, shimFile)
	err = errors.Join(os.RemoveAll(patchedDir), os.CopyFS(patchedDir, source), os.Remove(patched),
		os.WriteFile(patched, bytes.Replace(raw, []byte(shimTicks), []byte("\n"), 1), 0o644))
	for _, file := range []string{"go.mod", "go.sum"} {
		content, readErr := os.ReadFile(file)
		if file == "go.mod" {
			content = fmt.Appendf(content, "\nreplace %s => ./%s\n", containerd, patchedDir)
		}
		err = errors.Join(err, readErr, os.WriteFile(filepath.Join(filepath.Dir(patchedGoMod), file), content, 0o644))
	}
	return err
}

func runCommand(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if bytes.Contains(out, []byte("libseccomp")) || errors.Is(err, exec.ErrNotFound) || bytes.Contains(out, []byte(`"gcc"`)) {
		return fmt.Errorf("%w (apt-get install gcc libc6-dev libseccomp-dev pkg-config): %s", err, out)
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
}

// buildPause makes the image of the program in ../pause. It is C, because it runs once for every pod and
// a Go runtime would be a hundred times its size.
func buildPause(out string) error {
	program := out + ".bin"
	cc := exec.Command("gcc", "-static", "-Os", "-s", "-Wall", "-Werror", "-o", program, "cri/bundle/pause/pause.c")
	if err := runCommand(cc); err != nil {
		return err
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive, err := tarOf("pause", content)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(archive)), nil
	})
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config.Architecture, config.OS = runtime.GOARCH, "linux"
	config.Config = v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	tag, err := name.NewTag(pauseRef)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, image)
}

func tarOf(name string, content []byte) ([]byte, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	return archive.Bytes(), errors.Join(err, w.Close())
}
