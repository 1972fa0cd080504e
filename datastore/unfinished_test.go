// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Open(ctx, Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A first start may end at any moment, by kill -9 too; the next one makes a database nevertheless.
func TestFirstStartCutShort(t *testing.T) {
	for name, leave := range map[string]func(member string) error{
		"folders":           func(member string) error { return os.MkdirAll(filepath.Join(member, "snap"), 0o700) },
		"half of a log":     func(member string) error { return os.MkdirAll(filepath.Join(member, "wal.tmp"), 0o700) },
		"a log, no entries": emptyLog,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := leave(filepath.Join(dir, "member")); err != nil {
				t.Fatal(err)
			}
			open(t, dir)
		})
	}
	t.Run("stopped", func(t *testing.T) {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Open(ctx, Config{Dir: dir}); err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		open(t, dir)
	})
}

func emptyLog(member string) error {
	if err := os.MkdirAll(filepath.Join(member, "snap"), 0o700); err != nil {
		return err
	}
	log, err := wal.Create(zap.NewNop(), filepath.Join(member, "wal"), nil)
	if err != nil {
		return err
	}
	return log.Close()
}

// What was acknowledged is there after a start, also of a database that had no time to note how far it is.
func TestAcknowledgedIsKept(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := first.Client().Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	// A copy of the log alone is what a kill in this moment may leave.
	crashed := t.TempDir()
	if err := os.CopyFS(filepath.Join(crashed, "member", "wal"), os.DirFS(filepath.Join(dir, "member", "wal"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(crashed, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dir, crashed} {
		got, err := open(t, dir).Client().Get(t.Context(), "key")
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
			t.Errorf("after a new start: %v, %v; want what was put", got, err)
		}
	}
}

// A database that cannot be read, or is another process's, is told and left as it is.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	first := open(t, dir)
	if _, err := Open(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("Open of a database in use = %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "member", "snap", "db")
	if err := os.WriteFile(db, []byte("nothing of sense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "begin anew") {
		t.Errorf("Open of a broken database = %v", err)
	}
	if raw, err := os.ReadFile(db); err != nil || string(raw) != "nothing of sense" {
		t.Errorf("it was changed: %q, %v", raw, err)
	}
}

// etcd is ready within 120 ms, on a machine that has nothing else to do; the best of a few starts shows it.
func TestReadyInTime(t *testing.T) {
	best := time.Hour
	for range 5 {
		begin := time.Now()
		s := open(t, t.TempDir())
		best = min(best, time.Since(begin))
		s.Close()
	}
	t.Logf("ready after %s", best)
	if best > 120*time.Millisecond {
		t.Errorf("ready after %s at best, want 120ms", best)
	}
}
