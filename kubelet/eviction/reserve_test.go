// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/skiff-k8s/skiff/kubelet/diskusage"
)

// The reserve is given up on a full disk only, and taken again when there is room for much more.
func TestWantedReserve(t *testing.T) {
	const disk = 10 << 30
	for name, c := range map[string]struct {
		held      bool
		available uint64
		want      bool
	}{
		"room":                     {true, disk / 2, true},
		"little room":              {true, 2 << 20, true},
		"none left":                {true, 4096, false},
		"given up":                 {false, reserveSize, false},
		"room again":               {false, disk / 2, true},
		"not enough for a reserve": {false, roomy * reserveSize, false},
	} {
		if size, got := wantedReserve(c.held, diskusage.FileSystem{Capacity: disk, Available: c.available}); got != c.want || size != reserveSize {
			t.Errorf("%s: %d bytes, %t, want %t", name, size, got, c.want)
		}
	}
	if size, _ := wantedReserve(false, diskusage.FileSystem{Capacity: 100 << 20}); size != 1<<20 {
		t.Errorf("a small disk has a reserve of %d bytes", size)
	}
}

func TestReserveTakesDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	reserve{path}.keep(t.Context())
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; blocks < info.Size() || info.Size() == 0 {
		t.Errorf("%d bytes have %d on the disk", info.Size(), blocks)
	}
	reserve{}.keep(t.Context()) // none is wanted
}
