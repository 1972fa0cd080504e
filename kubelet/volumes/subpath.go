// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// subPath is a part of a volume that a container mounts.
type subPath struct {
	pod       types.UID
	volume    string // the name in paths
	container string
	index     int    // among the container's mounts
	base      string // of the volume on this node
	path      string // relative to base
}

// bindSubPath makes s a mount of its own and returns where. Whoever writes to the volume cannot
// lead it out of there: the path is resolved once, by the kernel, beneath the volume, and
// what was opened is mounted, whatever the path means by then.
func (m *Manager) bindSubPath(s subPath) (string, error) {
	fd, err := s.open()
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	target := filepath.Join(m.PodDir(s.pod), "volume-subpaths", s.volume, s.container, strconv.Itoa(s.index))
	var source unix.Stat_t
	if err := unix.Fstat(fd, &source); err != nil {
		return "", err
	}
	if done, err := reuse(target, &source); done || err != nil {
		return target, err
	}
	if err := makeTarget(target, source.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	return target, unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND, "")
}

// open returns an O_PATH descriptor of the subpath, which it makes a directory if there is nothing.
func (s subPath) open() (int, error) {
	base, err := unix.Open(s.base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(base, s.path, how)
	if errors.Is(err, unix.ENOENT) {
		if err := s.make(); err != nil {
			return -1, err
		}
		fd, err = unix.Openat2(base, s.path, how)
	}
	return fd, err
}

// make makes the directories of the path that are missing, with the mode of the volume.
func (s subPath) make() error {
	root, err := os.OpenRoot(s.base)
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	path := ""
	for _, element := range strings.Split(filepath.Clean(s.path), "/") {
		path = filepath.Join(path, element)
		switch err := root.Mkdir(path, 0o700); {
		case errors.Is(err, os.ErrExist):
			continue
		case err != nil:
			return err
		}
		if err := root.Chmod(path, info.Mode()&(os.ModePerm|os.ModeSetgid|os.ModeSticky)); err != nil { // past the umask
			return err
		}
	}
	return nil
}

// reuse tells whether target is already a mount of source. A mount of anything else is taken away.
func reuse(target string, source *unix.Stat_t) (bool, error) {
	at, err := isMountPoint(target)
	if err != nil || !at {
		return false, err
	}
	var there unix.Stat_t
	if err := unix.Lstat(target, &there); err == nil && there.Dev == source.Dev && there.Ino == source.Ino {
		return true, nil
	}
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return false, fmt.Errorf("unmount %s: %w", target, err)
	}
	return false, nil
}

// makeTarget makes a directory, or else a file, to mount on.
func makeTarget(target string, dir bool) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	info, err := os.Lstat(target)
	if err == nil && info.IsDir() != dir { // the subpath has become another thing
		if err := os.Remove(target); err != nil {
			return err
		}
	}
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
