// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
)

// Counts says how many objects there are of a resource, and how big they are: flow control judges by it what
// a list costs, and a scrape of the metrics shows it. It asks the storage when somebody wants to know; the
// machinery's own way is to ask for every resource once a minute.
type Counts struct {
	now func() time.Time

	mu        sync.Mutex // guards what follows
	resources map[schema.GroupResource]*count
}

// count is what is known of one resource.
type count struct {
	ask func(context.Context) (storage.Stats, error)

	mu    sync.Mutex // guards what follows; held while asking, so that one asks for all
	stats storage.Stats
	err   error
	at    time.Time
}

// countTTL is how long an answer is good. Upstream's is up to a minute old.
const countTTL = 10 * time.Second

// countTimeout bounds the time that a list waits for its estimate.
const countTimeout = 2 * time.Second

var _ flowcontrolrequest.StorageObjectCountTracker = (*Counts)(nil)

func newCounts() *Counts {
	return &Counts{now: time.Now, resources: map[schema.GroupResource]*count{}}
}

// add makes a resource known until the returned function is called.
func (c *Counts) add(resource schema.GroupResource, ask func(context.Context) (storage.Stats, error)) (remove func()) {
	entry := &count{ask: ask}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resources[resource] = entry
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.resources[resource] == entry { // it may have been opened again
			delete(c.resources, resource)
			metrics.DeleteStoreStats(resource)
		}
	}
}

// Get implements StorageObjectCountTracker. Where the storage does not answer, its error makes flow control
// assume the worst.
func (c *Counts) Get(resource string) (storage.Stats, error) {
	c.mu.Lock()
	entry := c.resources[schema.ParseGroupResource(resource)]
	c.mu.Unlock()
	if entry == nil {
		return storage.Stats{}, flowcontrolrequest.ObjectCountNotFoundErr
	}
	stats, err := entry.get(c.now())
	if err != nil {
		return stats, flowcontrolrequest.ObjectCountStaleErr
	}
	return stats, nil
}

func (e *count) get(now time.Time) (storage.Stats, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.at.IsZero() && now.Sub(e.at) < countTTL {
		return e.stats, e.err
	}
	ctx, cancel := context.WithTimeout(context.Background(), countTimeout) // the interface has no context
	defer cancel()
	e.stats, e.err = e.ask(ctx)
	e.at = now
	return e.stats, e.err
}

// Set implements StorageObjectCountTracker. Nobody needs to tell.
func (c *Counts) Set(string, storage.Stats) {}

// RunUntil implements StorageObjectCountTracker. There is nothing to maintain.
func (c *Counts) RunUntil(<-chan struct{}) {}

// Observe brings the metrics of all resources up to date.
func (c *Counts) Observe() {
	c.mu.Lock()
	entries := make(map[schema.GroupResource]*count, len(c.resources))
	for resource, entry := range c.resources {
		entries[resource] = entry
	}
	c.mu.Unlock()
	for resource, entry := range entries {
		stats, err := entry.get(c.now())
		metrics.UpdateStoreStats(resource, stats, err)
	}
}
