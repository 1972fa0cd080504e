// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The programs are unpacked once, and again when one is missing or another version is carried.
func TestUnpack(t *testing.T) {
	dir := t.TempDir()
	if err := Unpack(dir); err != nil {
		t.Fatal(err)
	}
	runc, shim := filepath.Join(dir, "runc"), filepath.Join(dir, "containerd-shim-runc-v2")
	out, err := exec.Command(runc, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "runc version 1.5.2") || !strings.Contains(string(out), "libseccomp") {
		t.Errorf("runc --version = %s, %v; want 1.5.2 with libseccomp", out, err)
	}
	old := time.Unix(1e9, 0)
	for _, path := range []string{runc, shim} {
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := Unpack(dir); err != nil || modified(t, runc) != old {
		t.Errorf("a second Unpack = %v wrote what was there", err)
	}
	if err := os.Remove(runc); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(dir); err != nil || modified(t, runc) == old || modified(t, shim) != old {
		t.Errorf("Unpack with runc missing = %v, must write runc alone", err)
	}
	if err := os.WriteFile(filepath.Join(dir, record), []byte("half a rec"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(dir); err != nil || modified(t, shim) == old {
		t.Errorf("Unpack with a broken record = %v, must write all", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".new-*")); err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

// One program alone can be put into a directory of others, and taken away from there.
func TestUnpackOne(t *testing.T) {
	dir := t.TempDir()
	theirs := filepath.Join(dir, "bridge")
	if err := os.WriteFile(theirs, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(dir, Plugin); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, Plugin)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "runc")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runc was unpacked too: %v", err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "bridge" {
		t.Errorf("after Remove there is %v (%v), want what is not ours", left, err)
	}
	if err := Remove(dir); err != nil {
		t.Errorf("a second Remove: %v", err)
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return time.Time{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}
