// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"
)

// local is a PersistentVolume that is a directory or a block device of this node.
type local struct{ m *Manager }

func (local) name() string { return "kubernetes.io/local-volume" }

func (local) supports(v *volume) bool { return v.pv != nil && v.pv.Spec.Local != nil }

func (l local) setUp(ctx context.Context, v *volume) (mounted, error) {
	source, err := filepath.EvalSymlinks(v.pv.Spec.Local.Path)
	if err != nil {
		return mounted{}, err
	}
	info, err := os.Stat(source)
	if err != nil {
		return mounted{}, err
	}
	device := info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	switch {
	case isBlock(v.pv) && !device:
		return mounted{}, fmt.Errorf("path %q is not a block device", source)
	case isBlock(v.pv):
		err := l.m.grow(ctx, v, func(context.Context, resource.Quantity) error { return nil })
		return mounted{path: source, device: true, readOnly: v.readOnly, follows: true}, err
	case !device && !info.IsDir():
		return mounted{}, errors.New("only directory and block device are supported")
	}
	at, err := isMountPoint(v.dir)
	if err != nil {
		return mounted{}, err
	}
	if !at {
		if err := l.mount(v, source, device); err != nil {
			return mounted{}, err
		}
	}
	if !v.again && !v.readOnly {
		if err := l.m.giveVolume(v.pod, v.dir, v.fsGroup(), false); err != nil {
			return mounted{}, err
		}
	}
	if !v.readOnly {
		err = l.m.grow(ctx, v, func(context.Context, resource.Quantity) error { return fillDevice(source, device, v.dir) })
	}
	return mounted{path: v.dir, readOnly: v.readOnly, follows: device && !v.readOnly}, err
}

// fillDevice lets the file system on a device take all of it. A directory has the room that it has.
func fillDevice(source string, device bool, dir string) error {
	if !device {
		return nil
	}
	_, err := mount.NewResizeFs(exec.New()).Resize(source, dir)
	return err
}

// mount puts source at v.dir. A device without a file system gets one.
func (local) mount(v *volume, source string, device bool) error {
	if err := os.MkdirAll(v.dir, 0o750); err != nil {
		return err
	}
	options := slices.Clone(v.pv.Spec.MountOptions)
	if v.readOnly {
		options = append(options, "ro")
	}
	mounter := mount.NewWithoutSystemd("")
	switch {
	case device:
		fstype := "ext4"
		if v.pv.Spec.Local.FSType != nil {
			fstype = *v.pv.Spec.Local.FSType
		}
		return mount.NewSafeFormatAndMount(mounter, exec.New()).FormatAndMount(source, v.dir, fstype, options)
	case len(v.pv.Spec.MountOptions) > 0:
		return mounter.Mount(source, v.dir, "", append(options, "bind"))
	}
	if err := unix.Mount(source, v.dir, "", unix.MS_BIND, ""); err != nil { // read-only is for the container's mount
		return fmt.Errorf("mount %s at %s: %w", source, v.dir, err)
	}
	return nil
}
