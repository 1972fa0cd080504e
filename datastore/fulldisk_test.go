// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
)

// On a disk that somebody else has filled, writes go on for a while, and what was acknowledged is there after a restart.
func TestFullDisk(t *testing.T) {
	const inside = "SKIFF_DATASTORE_TEST_DISK"
	if os.Getenv(inside) == "" { // with a mount namespace of its own, so that nothing can be left mounted
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=300m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	cfg := Config{Dir: filepath.Join(disk, "db")}
	store, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(cfg.Dir, "member", "snap", "db")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var st unix.Stat_t
		if err := unix.Stat(db, &st); err == nil && st.Blocks*512 >= headroom {
			break
		}
		if time.Now().After(end) {
			t.Fatal("there is no room for the database")
		}
	}
	filler := filepath.Join(disk, "filler")
	fill(t, filler)
	const writes = 1500
	value := strings.Repeat("x", 10_000)
	for i := range writes {
		if _, err := store.Client().Put(t.Context(), fmt.Sprintf("/full/%d", i), value); err != nil {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	time.Sleep(2 * batchInterval) // the database itself is written now
	if err := errors.Join(store.Health(t.Context()), store.Close(), os.Remove(filler)); err != nil {
		t.Fatal(err)
	}
	store, err = Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	got, err := store.Client().Get(t.Context(), "/full/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil || got.Count != writes {
		t.Errorf("after a restart there are %d of %d, %v", got.Count, writes, err)
	}
}

// fill takes all of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := 1 << 20; block > 0; block /= 16 {
		for err == nil {
			_, err = f.Write(make([]byte, block))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		err = nil
	}
}
