// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/diskroom"
	"github.com/skiff-k8s/skiff/kubelet/diskusage"
)

// reserve is a file whose only worth is that it can be removed. On a disk without any room left a container runtime cannot even
// note that a container has ended, so its pod would stay, with all the disk that it uses: nothing would get better by itself.
type reserve struct{ path string }

const (
	reserveSize  = 32 << 20
	reserveShare = 100     // but at most one part in so many of the disk
	exhausted    = 1 << 20 // less than that left is nothing
	roomy        = 4       // times its size have to be left before it is taken
)

// keep has the file there while there is room for it, and gives it up on a full disk.
func (r reserve) keep(ctx context.Context) {
	if r.path == "" {
		return
	}
	fs, err := diskusage.OfFileSystem(filepath.Dir(r.path))
	if err != nil {
		return // the folder is made by the container runtime
	}
	_, err = os.Lstat(r.path)
	held := err == nil
	switch size, wanted := wantedReserve(held, fs); {
	case held && !wanted:
		klog.FromContext(ctx).Info("The disk is full; giving up what was kept back of it", "file", r.path)
		err = os.Remove(r.path)
	case !held && wanted:
		err = takeDisk(r.path, size)
	default:
		return
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Keeping back some of the disk")
	}
}

// wantedReserve says how large the reserve is, and whether it should be there.
func wantedReserve(held bool, fs diskusage.FileSystem) (size int64, wanted bool) {
	size = min(reserveSize, int64(fs.Capacity)/reserveShare)
	if held {
		return size, fs.Available >= exhausted
	}
	return size, int64(fs.Available) > roomy*size
}

// takeDisk makes a file that has so many bytes of the disk for itself. Where that cannot be had the empty file says that we tried.
func takeDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := diskroom.Take(f, size); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
