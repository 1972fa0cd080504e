// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// watches are the client's watches. They can be ended, and they are told how far they are also if nothing is written.
//
// etcd leaves a request for progress without an answer as long as any watch is to begin at a revision that is not there yet. Each
// watch that follows a list is, until the next write; and whoever reads consistently from a watch cache waits for the answer.
// So where somebody asks, and nobody writes, this does.
type watches struct {
	client   func() clientv3.Watcher // makes one
	kv       clientv3.KV
	revision func() int64 // of the last write here

	mu      sync.Mutex
	current clientv3.Watcher // guarded by mu
	newest  int64            // where the watch begins that begins last, of those that share a stream; guarded by mu
}

func newWatches(client func() clientv3.Watcher, kv clientv3.KV, revision func() int64) *watches {
	return &watches{client: client, current: client(), kv: kv, revision: revision}
}

func (w *watches) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	begins := clientv3.OpGet(key, opts...).Rev()
	if begins > w.revision()+1 { // by a revision that nobody has been told of: who waits for it does so in a stream of its own
		ctx = metadata.AppendToOutgoingContext(ctx, "skiff-begins", strconv.FormatInt(begins, 10))
		begins = 0
	}
	w.mu.Lock()
	w.newest = max(w.newest, begins)
	current := w.current
	w.mu.Unlock()
	return current.Watch(ctx, key, opts...)
}

// progressKey is of no resource.
const progressKey = "skiff/progress"

func (w *watches) RequestProgress(ctx context.Context) error {
	w.mu.Lock()
	newest, current := w.newest, w.current
	w.mu.Unlock()
	if w.revision() < newest {
		if _, err := w.kv.Put(ctx, progressKey, ""); err != nil {
			return fmt.Errorf("let watches begin: %w", err)
		}
	}
	return current.RequestProgress(ctx)
}

// endAll ends all watches there are, with their streams: to end many of a stream, one by one, blocks etcd's client in the process for
// ever, since neither it nor the server reads what the other says while it has something to say.
func (w *watches) endAll() error {
	w.mu.Lock()
	old := w.current
	w.current = w.client()
	w.mu.Unlock()
	return old.Close()
}

// Close ends all watches for good.
func (w *watches) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current.Close()
}
