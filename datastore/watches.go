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
	clientv3.Watcher
	kv       clientv3.KV
	revision func() int64 // of the last write here

	mu     sync.Mutex
	ends   map[int]context.CancelFunc // guarded by mu, as is all below
	next   int
	newest int64 // where the watch begins that begins last, of those that share a stream
}

func newWatches(w clientv3.Watcher, kv clientv3.KV, revision func() int64) *watches {
	return &watches{Watcher: w, kv: kv, revision: revision, ends: map[int]context.CancelFunc{}}
}

func (w *watches) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	ctx, end := context.WithCancel(ctx)
	begins := clientv3.OpGet(key, opts...).Rev()
	if begins > w.revision()+1 { // by a revision that nobody has been told of: who waits for it does so in a stream of its own
		ctx = metadata.AppendToOutgoingContext(ctx, "skiff-begins", strconv.FormatInt(begins, 10))
		begins = 0
	}
	w.mu.Lock()
	id := w.next
	w.next++
	w.ends[id] = end
	w.newest = max(w.newest, begins)
	w.mu.Unlock()
	context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.ends, id)
	})
	return w.Watcher.Watch(ctx, key, opts...)
}

// progressKey is of no resource.
const progressKey = "skiff/progress"

func (w *watches) RequestProgress(ctx context.Context) error {
	w.mu.Lock()
	newest := w.newest
	w.mu.Unlock()
	if w.revision() < newest {
		if _, err := w.kv.Put(ctx, progressKey, ""); err != nil {
			return fmt.Errorf("let watches begin: %w", err)
		}
	}
	return w.Watcher.RequestProgress(ctx)
}

func (w *watches) endAll() {
	w.mu.Lock()
	var ends []context.CancelFunc
	for _, end := range w.ends {
		ends = append(ends, end)
	}
	w.mu.Unlock()
	for _, end := range ends {
		end()
	}
}
