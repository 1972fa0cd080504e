// SPDX-License-Identifier: Apache-2.0

package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	v := "before"
	if err := Load(path, &v); err != nil || v != "before" {
		t.Errorf("without a file: %q, %v", v, err)
	}
	if err := Save(path, "after"); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, &v); err != nil || v != "after" {
		t.Errorf("%q, %v; want what was saved", v, err)
	}
	if err := Save(path, func() {}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("saving what has no form: %v", err)
	}
	if err := Load(path, &v); err != nil || v != "after" {
		t.Errorf("after a save that failed: %q, %v", v, err)
	}
	if err := os.WriteFile(path, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, &v); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("loading what cannot be read: %v", err)
	}
	if err := Save(filepath.Join(path, "below"), 1); errors.Is(err, fs.ErrNotExist) || err == nil {
		t.Errorf("saving where there is no folder: %v", err)
	}
}
