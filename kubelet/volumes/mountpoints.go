// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// isMountPoint tells whether something is mounted at path, which need not exist.
func isMountPoint(path string) (bool, error) {
	at, err := mountinfo.Mounted(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return at, err
}

// unmountBelow unmounts all that is mounted in dir, the innermost first. A mount that is still in use
// leaves our sight at once and ends when its last user does.
func unmountBelow(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // the mount table knows no symlinks
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	// The table is in the order of mounting, so backwards also takes stacked mounts from the top.
	slices.Reverse(mounts)
	slices.SortStableFunc(mounts, func(a, b *mountinfo.Info) int { return cmp.Compare(len(b.Mountpoint), len(a.Mountpoint)) })
	for _, m := range mounts {
		err := unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(m.Mountpoint, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // gone meanwhile
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	if mounts, err = mountinfo.GetMounts(mountinfo.PrefixFilter(dir)); err == nil && len(mounts) > 0 {
		err = fmt.Errorf("unmount %s: still mounted", mounts[0].Mountpoint)
	}
	return err
}

// removeTree removes dir and all in it. It follows no symlink and enters no other mount.
func removeTree(dir string) error {
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	if err := emptyTree(fd); err != nil {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return os.Remove(dir)
}

// emptyTree removes what is in the directory fd, and closes fd.
func emptyTree(fd int) error {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			if err := unix.Unlinkat(fd, e.Name(), 0); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("%s: %w", e.Name(), err)
			}
			continue
		}
		sub, err := unix.Openat2(fd, e.Name(), &unix.OpenHow{
			Flags:   unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
		})
		if err == nil {
			err = emptyTree(sub)
		}
		if err == nil {
			err = unix.Unlinkat(fd, e.Name(), unix.AT_REMOVEDIR)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return nil
}
