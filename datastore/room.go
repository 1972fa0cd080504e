// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/internal/diskroom"
)

// headroom is how much the database can grow while the disk is full. The write-ahead log takes its room in advance by itself.
const headroom = 32 << 20

// keepRoom takes room on the disk for the database to grow into, so that etcd can go on writing for a while when somebody else
// has filled the disk: a write of its own that fails would end the process.
func keepRoom(ctx context.Context, dir string, period time.Duration) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		if err := takeRoom(filepath.Join(dir, "member", "snap", "db")); err != nil {
			klog.FromContext(ctx).Error(err, "Taking room for the database")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// takeRoom has blocks for all of a file, holes in it included, and some more behind its end. Its size stays.
func takeRoom(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return diskroom.TakeBehind(f, info.Size()+headroom)
}
