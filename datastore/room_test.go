// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// The file has blocks beyond its end, and its size and content stay.
func TestTakeRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 1<<20); err != nil { // a hole
		t.Fatal(err)
	}
	for range 2 {
		if err := takeRoom(path); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != 1<<20 || blocks < headroom {
		t.Errorf("it has %d bytes and room for %d", info.Size(), blocks)
	}
}
