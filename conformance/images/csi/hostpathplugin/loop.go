// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attachLoop makes a file readable and writable as a block device.
func attachLoop(file string) (device string, err error) {
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	for range 20 { // another may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", err)
		}
		device = fmt.Sprintf("/dev/loop%d", n)
		err = withDevice(device, func(fd int) error {
			return unix.IoctlLoopConfigure(fd, &unix.LoopConfig{Fd: uint32(backing.Fd())})
		})
		if !errors.Is(err, unix.EBUSY) {
			return device, err
		}
	}
	return "", errors.New("others take all loop devices")
}

// growLoop has a device see that its file has become larger.
func growLoop(device string) error {
	return withDevice(device, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0) })
}

// detachLoop frees a device, unless it belongs to another file by now.
func detachLoop(device, file string) error {
	var stat unix.Stat_t
	if err := unix.Stat(file, &stat); err != nil {
		return fmt.Errorf("find the file of %s: %w", device, err)
	}
	return withDevice(device, func(fd int) error {
		info, err := unix.IoctlLoopGetStatus64(fd)
		if errors.Is(err, unix.ENXIO) || err == nil && info.Inode != stat.Ino {
			return nil
		}
		if err != nil {
			return err
		}
		return unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	})
}

func withDevice(device string, do func(fd int) error) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := do(int(f.Fd())); err != nil {
		return fmt.Errorf("use %s: %w", device, err)
	}
	return nil
}
