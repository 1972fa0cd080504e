// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"sync"
	"time"
	_ "unsafe" // for go:linkname
)

// etcdResyncPeriod is how often etcd looks for watchers that are behind: those that begin in the past, and those that were too slow.
// It wakes the server each time, though at rest there are none, and etcd has no setting for it.
//
//go:linkname etcdResyncPeriod go.etcd.io/etcd/server/v3/storage/mvcc.watchResyncPeriod
var etcdResyncPeriod time.Duration

// resyncSeldom is to be called before etcd starts. A watcher that is behind waits so long at most.
var resyncSeldom = sync.OnceFunc(func() { etcdResyncPeriod = 300 * time.Millisecond })
