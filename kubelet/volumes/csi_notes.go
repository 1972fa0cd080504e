// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
)

// note is what the kubelet notes about a CSI volume, in the words and the place of upstream's.
type note map[string]string

const (
	noteFile       = "vol_data.json"
	noteAttachment = "attachmentID" // of volumes that have one
	noteTarget     = "targetPath"   // where the volume is published, of those that are; not upstream's
)

// volume names the volume that the note is about.
func (n note) volume() string { return n["driverName"] + "^" + n["volumeHandle"] }

// unique is what the Node's status calls the volume.
func (n note) unique() corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName(csiPlugin + "/" + n.volume())
}

func writeNote(dir string, n note) error {
	if err := errors.Join(os.MkdirAll(dir, 0o750), checkpoint.Save(filepath.Join(dir, noteFile), n)); err != nil {
		return fmt.Errorf("note volume: %w", err)
	}
	return nil
}

func readNote(dir string) (note, error) {
	data, err := os.ReadFile(filepath.Join(dir, noteFile))
	if err != nil {
		return nil, err
	}
	var n note
	if err := json.Unmarshal(data, &n); err != nil {
		return nil, fmt.Errorf("read note about volume in %s: %w", dir, err)
	}
	return n, nil
}

// notes are those about all volumes of all pods, by the volume's directory.
func (m *Manager) notes() (map[string]note, error) {
	files, err := filepath.Glob(filepath.Join(m.cfg.Root, "pods", "*", "volumes", escape(csiPlugin), "*", noteFile))
	if err != nil {
		return nil, err
	}
	all := map[string]note{}
	for _, file := range files {
		n, err := readNote(filepath.Dir(file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[filepath.Dir(file)] = n
	}
	return all, nil
}

// hasOthers tells whether pods but that of dir have the volume.
func (m *Manager) hasOthers(n note, dir string) (bool, error) {
	users, err := m.notes()
	for at, other := range users {
		if at != dir && other.volume() == n.volume() {
			return true, nil
		}
	}
	return false, err
}

// stagingPath is where a volume is staged for all pods of the node.
func (m *Manager) stagingPath(s csiSource) string {
	return filepath.Join(m.cfg.Root, "plugins", csiPlugin, s.driver, fmt.Sprintf("%x", sha256.Sum256([]byte(s.handle))), "globalmount")
}

// targetPath is where a volume is published for a pod: in the pod's folder, or, for devices, beside it.
func (m *Manager) targetPath(v *volume, s csiSource) string {
	if s.block {
		return filepath.Join(m.cfg.Root, "plugins", csiPlugin, "volumeDevices", "publish", v.specName(), string(v.pod.UID))
	}
	return filepath.Join(v.dir, "mount")
}

// removeStaging removes what is left of a volume that was unstaged. The driver should have left nothing in it.
func removeStaging(staged string) error {
	dir := filepath.Dir(staged)
	for _, path := range []string{staged, filepath.Join(dir, noteFile), dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove staging folder: %w", err)
		}
	}
	return nil
}
