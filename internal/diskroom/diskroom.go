// SPDX-License-Identifier: Apache-2.0

// Package diskroom takes room on a disk before there is anything to put there.
package diskroom

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Take gives a file so many bytes of the disk, and that size.
func Take(f *os.File, size int64) error { return allocate(f, 0, size) }

// TakeBehind gives a file so many bytes of the disk, more than its size may be, which stays.
func TakeBehind(f *os.File, size int64) error { return allocate(f, unix.FALLOC_FL_KEEP_SIZE, size) }

// allocate does nothing on a file system that cannot.
func allocate(f *os.File, mode uint32, size int64) error {
	err := unix.Fallocate(int(f.Fd()), mode, 0, size)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("allocate %d bytes for %s: %w", size, f.Name(), err)
	}
	return nil
}
