// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Directories are made and removed by name, as often as asked, and nothing else is reached.
func TestDirectories(t *testing.T) {
	root := filepath.Join(t.TempDir(), "storage")
	mux := http.NewServeMux()
	mux.Handle("/localVolumes/{volume}", Directories{Root: root})
	do := func(method, volume string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(method, "/localVolumes/"+volume, nil))
		return w.Code, w.Body.String()
	}
	path := filepath.Join(root, "pvc-1")
	for range 2 {
		if code, body := do("PUT", "pvc-1"); code != http.StatusOK || !strings.Contains(body, path) {
			t.Fatalf("PUT says %d %s", code, body)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("directory is %v, %v", info, err)
	}
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "a", "b"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if code, body := do("DELETE", "pvc-1"); code != http.StatusOK {
			t.Fatalf("DELETE says %d %s", code, body)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"..%2F..%2Fetc", "%2e%2e%2fx", "A", ".hidden", "a%2Fb"} {
		if code, _ := do("DELETE", name); code != http.StatusBadRequest {
			t.Errorf("DELETE %s says %d", name, code)
		}
	}
}
