// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// All watches end at once, as many as a server has, and others can begin.
func TestAllWatchesEnd(t *testing.T) {
	s := open(t, t.TempDir())
	var all []clientv3.WatchChan
	for i := range 300 {
		w := s.Client().Watch(t.Context(), fmt.Sprintf("/registry/%d/", i), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-w
		all = append(all, w)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.watches.endAll() }()
	patience := time.After(20 * time.Second)
	for i, w := range all {
		for open := true; open; {
			select {
			case _, open = <-w:
			case <-patience:
				t.Fatalf("watch %d goes on", i)
			}
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	w := s.Client().Watch(t.Context(), "/registry/0/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	select {
	case <-w:
	case <-time.After(20 * time.Second):
		t.Fatal("no watch begins any more")
	}
	if _, err := s.Client().Put(t.Context(), "/registry/0/a", "1"); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-w:
		if len(got.Events) != 1 {
			t.Errorf("it tells of %v", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it tells nothing")
	}
}
