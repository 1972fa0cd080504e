// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// file is one file of a volume whose content comes from the API.
type file struct {
	data []byte
	mode int32
	uid  *int64 // owner; nil leaves it with root
}

// dataLink is the symlink that every visible file goes through. Replacing it replaces all files at
// once, and containers can wait for that with inotify.
const dataLink = "..data"

// writeFiles makes dir show exactly files, all of the new version or all of the old:
//
//	dir/..2006_01_02_15_04_05.123456/user/labels   a version
//	dir/..data -> ..2006_01_02_15_04_05.123456     the current one
//	dir/user -> ..data/user                        what containers see
//
// finish is called after a version was written and before it can be seen.
func writeFiles(dir string, files map[string]file, finish func() error) error {
	for path := range files {
		if err := checkFilePath(path); err != nil {
			return err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if current == "" || !sameFiles(filepath.Join(dir, current), files) {
		if current, err = writeVersion(dir, files, finish); err != nil {
			return err
		}
	}
	if err := linkVisible(dir, files); err != nil {
		return err
	}
	return removeOld(dir, current, files)
}

// checkFilePath refuses paths that would leave the volume or clash with versions.
func checkFilePath(path string) error {
	switch {
	case path == "":
		return errors.New("invalid path: must not be empty")
	case filepath.IsAbs(path):
		return fmt.Errorf("invalid path: must be relative path: %s", path)
	case !filepath.IsLocal(path):
		return fmt.Errorf("invalid path: must not contain '..': %s", path)
	case strings.HasPrefix(path, ".."):
		return fmt.Errorf("invalid path: must not start with '..': %s", path)
	}
	return nil
}

// sameFiles tells whether version holds files and nothing else.
func sameFiles(version string, files map[string]file) bool {
	n := 0
	err := filepath.WalkDir(version, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		return false
	}
	distinct := map[string]bool{}
	for path, f := range files {
		distinct[filepath.Clean(path)] = true
		data, err := os.ReadFile(filepath.Join(version, path))
		if err != nil || !bytes.Equal(data, f.data) {
			return false
		}
	}
	return n == len(distinct)
}

// writeVersion writes a new version, makes it the current one and returns its name.
func writeVersion(dir string, files map[string]file, finish func() error) (string, error) {
	version, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return "", err
	}
	if err = fillVersion(version, files); err == nil {
		err = finish()
	}
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(version))
	}
	name, next := filepath.Base(version), filepath.Join(dir, dataLink+"_tmp")
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // from a crash
		return "", err
	}
	if err := os.Symlink(name, next); err != nil {
		return "", err
	}
	return name, os.Rename(next, filepath.Join(dir, dataLink))
}

func fillVersion(version string, files map[string]file) error {
	if err := os.Chmod(version, 0o755); err != nil {
		return err
	}
	for path, f := range files {
		path = filepath.Join(version, path)
		if err := makeDir(filepath.Dir(path)); err != nil {
			return err
		}
		mode := os.FileMode(f.mode)
		if err := os.WriteFile(path, f.data, mode); err != nil {
			return err
		}
		if err := os.Chmod(path, mode); err != nil { // past the umask
			return err
		}
		if f.uid != nil {
			if err := os.Lchown(path, int(*f.uid), -1); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkVisible makes the links to what is new.
func linkVisible(dir string, files map[string]file) error {
	for path := range files {
		top := topOf(path)
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// removeOld removes links without a target and all versions but the current one. Directories that
// are mount points for nested volumes stay.
func removeOld(dir, current string, files map[string]file) error {
	tops := map[string]bool{}
	for path := range files {
		tops[topOf(path)] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Name() == dataLink || e.Name() == current || tops[e.Name()]:
			continue
		case strings.HasPrefix(e.Name(), ".."):
			err = os.RemoveAll(path)
		case e.Type()&fs.ModeSymlink != 0:
			err = os.Remove(path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// topOf returns the first element of path.
func topOf(path string) string {
	top, _, _ := strings.Cut(filepath.Clean(path), string(filepath.Separator))
	return top
}
