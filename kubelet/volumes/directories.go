// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Directories serves directories that PersistentVolumes are made of: PUT makes one and says where it is, DELETE
// removes it. Each has the name of its volume, and lies in Root.
type Directories struct{ Root string }

// ServeHTTP serves the directory that the path's wildcard {volume} names.
func (d Directories) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	volume := r.PathValue("volume")
	if why := validation.IsDNS1123Subdomain(volume); len(why) > 0 { // which also has no slash, and is not ".."
		http.Error(w, fmt.Sprintf("%q cannot be the name of a volume: %s", volume, why[0]), http.StatusBadRequest)
		return
	}
	path := filepath.Join(d.Root, volume)
	var err error
	switch r.Method {
	case http.MethodPut:
		err = makeVolume(path)
	case http.MethodDelete:
		err = removeVolume(path)
	default:
		http.Error(w, "only PUT and DELETE", http.StatusMethodNotAllowed)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"path": path}) // who asked may be gone
}

// makeVolume makes a directory that every user of a pod can write to. Outside of pods only root gets there.
func makeVolume(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory of volumes: %w", err)
	}
	if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make volume: %w", err)
	}
	return os.Chmod(path, 0o777) // past the umask
}

// removeVolume removes a directory, which need not be there. It is renamed first: half of a volume is never found again.
func removeVolume(path string) error {
	doomed := filepath.Join(filepath.Dir(path), ".removed-"+filepath.Base(path))
	if err := os.Rename(path, doomed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove volume: %w", err)
	}
	if _, err := os.Lstat(doomed); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return removeTree(doomed)
}
