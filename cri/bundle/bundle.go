// SPDX-License-Identifier: Apache-2.0

// Package bundle carries the programs that containers need besides the server, and the pause image.
//
// runc, the shim and the CNI plugin are processes of their own, started for each pod, so they have to be
// small; the server's binary is never executed in their place. `go run ./cri/bundle/build` builds them
// from Go modules at pinned versions and compresses them into the folder files, from where they get into
// the server's binary. A server that was built without them compiles, and says so when it starts.
package bundle

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Index is what files/index.json says about the other files there.
type Index struct {
	Programs []File `json:"programs"`
	// Pause is an image archive.
	Pause File `json:"pause"`
	// PauseRef is the image's name.
	PauseRef string `json:"pauseRef"`
}

// File is one file, which lies in the bundle as Name + ".zst".
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // of the file before compression
	Inputs string `json:"inputs"` // a hash of all that it was built from
}

// WindowSize is how much memory it takes to decompress a file.
const WindowSize = 1 << 20

// ErrMissing says that the server was built without the bundle.
var ErrMissing = errors.New("built without the runtime bundle: run make")

//go:embed files
var files embed.FS

// record is the file that says what Unpack last put into a directory.
const record = ".bundle.json"

// Read returns the index, or ErrMissing.
func Read() (Index, error) {
	var index Index
	raw, err := files.ReadFile("files/index.json")
	if errors.Is(err, fs.ErrNotExist) {
		return index, ErrMissing
	}
	if err != nil {
		return index, err
	}
	return index, json.Unmarshal(raw, &index)
}

// Plugin is the program that any container runtime can start, as a CNI plugin.
const Plugin = "thincni"

// Unpack puts the programs into a directory, or only those named, if they are not the ones that are there
// already. A program that is running keeps its old file.
func Unpack(dir string, only ...string) error {
	index, err := Read()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	there := unpacked(dir)
	changed := false
	for _, f := range index.Programs {
		if len(only) > 0 && !slices.Contains(only, f.Name) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, f.Name)); err == nil && there[f.Name] == f.SHA256 {
			continue
		}
		if err := unpack(dir, f); err != nil {
			return fmt.Errorf("unpack %s: %w", f.Name, err)
		}
		changed = true
		there[f.Name] = f.SHA256
	}
	if !changed {
		return nil
	}
	raw, err := json.Marshal(there)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, record), 0o644, bytes.NewReader(raw))
}

// Remove takes away what Unpack has put into a directory that is somebody else's too.
func Remove(dir string) error {
	var errs []error
	for name := range unpacked(dir) {
		errs = append(errs, removeIfThere(filepath.Join(dir, name)))
	}
	return errors.Join(append(errs, removeIfThere(filepath.Join(dir, record)))...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unpacked returns the hashes of the programs that an earlier Unpack put there. An unreadable record counts
// as an empty one: the programs are then unpacked again.
func unpacked(dir string) map[string]string {
	hashes := map[string]string{}
	if raw, err := os.ReadFile(filepath.Join(dir, record)); err == nil {
		if json.Unmarshal(raw, &hashes) != nil {
			return map[string]string{}
		}
	}
	return hashes
}

func unpack(dir string, f File) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return writeFile(filepath.Join(dir, f.Name), 0o755, r)
}

// Open returns the file's content.
func (f File) Open() (io.ReadCloser, error) {
	blob, err := files.Open("files/" + f.Name + ".zst")
	if err != nil {
		return nil, err
	}
	d, err := zstd.NewReader(blob, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(WindowSize))
	if err != nil {
		return nil, errors.Join(err, blob.Close())
	}
	return d.IOReadCloser(), nil
}

// writeFile makes a file whole or not at all.
func writeFile(path string, mode os.FileMode, content io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is none
	_, err = io.Copy(tmp, content)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync() // a record of a half-written program must not survive a crash
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
