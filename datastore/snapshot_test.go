// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What was there at the moment of a snapshot is there after it was restored, and nothing else; nobody who has seen what came after it
// can go on from there.
func TestSnapshot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "old"))
	put := func(s *Store, key string) int64 {
		t.Helper()
		answer, err := s.Client().Put(t.Context(), key, "value of "+key)
		if err != nil {
			t.Fatal(err)
		}
		return answer.Header.Revision
	}
	put(s, "/registry/before")
	snapshot, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	last := put(s, "/registry/after")
	file := filepath.Join(dir, "snapshot.db")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n, err := snapshot.WriteTo(f); err != nil || n != snapshot.Size() {
		t.Fatalf("wrote %d bytes, %v; want %d", n, err, snapshot.Size())
	}

	to := Config{Dir: filepath.Join(dir, "new"), Name: "beta"}
	if err := Restore(to, file); err != nil {
		t.Fatal(err)
	}
	if has, err := HasData(to.Dir); !has || err != nil {
		t.Errorf("what was restored counts as data: %v, %v", has, err)
	}
	if err := Restore(to, file); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("restored over what is there: %v", err)
	}
	restored := open(t, to.Dir)
	for key, want := range map[string]int64{"/registry/before": 1, "/registry/after": 0} {
		if answer, err := restored.Client().Get(t.Context(), key); err != nil || answer.Count != want {
			t.Errorf("%s: %v, %v; want %d", key, answer, err, want)
		}
	}
	if members := restored.Members(); len(members) != 1 {
		t.Errorf("members: %v", members)
	}
	if next := put(restored, "/registry/later"); next <= last {
		t.Errorf("revisions go on with %d, and %d was seen", next, last)
	}
	watch := <-restored.Client().Watch(t.Context(), "/registry/", clientv3.WithPrefix(), clientv3.WithRev(last+1))
	if !errors.Is(watch.Err(), rpctypes.ErrCompacted) {
		t.Errorf("a watch from what is gone: %v", watch.Err())
	}

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Restore(Config{Dir: filepath.Join(dir, "broken")}, file); err == nil {
		t.Error("a broken snapshot was restored")
	}
}
