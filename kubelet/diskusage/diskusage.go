// SPDX-License-Identifier: Apache-2.0

// Package diskusage measures folders and file systems.
package diskusage

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// OfFolder adds up what lies on the disk below a folder, on its own file system: memory-backed volumes do not count.
func OfFolder(dir string) (bytes, inodes int64) {
	var top syscall.Stat_t
	if syscall.Lstat(dir, &top) != nil {
		return 0, 0
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var s syscall.Stat_t
		if err != nil || syscall.Lstat(path, &s) != nil {
			return nil // gone meanwhile
		}
		if s.Dev != top.Dev {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		bytes, inodes = bytes+s.Blocks*512, inodes+1
		return nil
	})
	return bytes, inodes
}

// FileSystem is what a file system has in all, in use and free.
type FileSystem struct{ Capacity, Available, Used, Inodes, InodesFree, InodesUsed uint64 }

// OfFileSystem asks for the file system of a folder.
func OfFileSystem(dir string) (f FileSystem, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return f, fmt.Errorf("statfs %s: %w", dir, err)
	}
	size := uint64(st.Bsize)
	return FileSystem{
		Capacity: st.Blocks * size, Available: st.Bavail * size, Used: (st.Blocks - st.Bfree) * size,
		Inodes: st.Files, InodesFree: st.Ffree, InodesUsed: st.Files - st.Ffree,
	}, nil
}
