// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watches are told how far they are when somebody asks, also in a store in which nothing is written any more and of which a
// watch has begun behind the last write, as each does that follows a list.
func TestProgressWithoutWrites(t *testing.T) {
	s := open(t, t.TempDir())
	put, err := s.Client().Put(t.Context(), "/registry/a", "1")
	if err != nil {
		t.Fatal(err)
	}
	last := put.Header.Revision
	first := s.Client().Watch(t.Context(), "/registry/b", clientv3.WithPrefix(), clientv3.WithRev(last-1), clientv3.WithCreatedNotify())
	<-first // it is there
	second := s.Client().Watch(t.Context(), "/registry/c", clientv3.WithPrefix(), clientv3.WithRev(last+1), clientv3.WithCreatedNotify())
	<-second
	s.Client().Watch(t.Context(), "/registry/d", clientv3.WithPrefix(), clientv3.WithRev(last+1000)) // somebody has made the number up
	ask := time.NewTicker(100 * time.Millisecond)                                                    // as a watch cache does
	defer ask.Stop()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-ask.C:
			if err := s.Client().RequestProgress(t.Context()); err != nil {
				t.Fatal(err)
			}
		case told := <-first:
			if told.IsProgressNotify() && told.Header.Revision >= last {
				return
			}
		case <-deadline:
			t.Fatalf("nobody told of revision %d", last)
		}
	}
}
