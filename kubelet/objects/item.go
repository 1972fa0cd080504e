// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// item is one object, or the knowledge that it does not exist. It is the store of its reflector.
type item struct {
	key    key
	notify func(*item)
	pods   map[types.UID]bool // the users; guarded by Cache.mu

	synced chan struct{} // closed with the first answer

	mu     sync.Mutex // guards what follows
	object runtime.Object
	cancel context.CancelFunc
}

func (it *item) get() runtime.Object {
	it.mu.Lock()
	defer it.mu.Unlock()
	return it.object
}

func (it *item) stop() {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.cancel != nil {
		it.cancel()
	}
}

// set takes over what the server says; nil means that there is no such object.
func (it *item) set(obj runtime.Object) {
	it.mu.Lock()
	before := it.object
	it.object = obj
	if immutable(obj) && it.cancel != nil {
		it.cancel()
	}
	it.mu.Unlock()
	select {
	case <-it.synced:
	default:
		close(it.synced)
		return
	}
	if version(before) != version(obj) {
		it.notify(it)
	}
}

// Add is called by the reflector, as are the other methods of cache.ReflectorStore below.
func (it *item) Add(obj any) error {
	if o, ok := obj.(runtime.Object); ok && it.isMe(o) {
		it.set(o)
	}
	return nil
}

// Update takes over a new version.
func (it *item) Update(obj any) error { return it.Add(obj) }

// Delete notes that the object is gone.
func (it *item) Delete(obj any) error {
	if o, ok := obj.(runtime.Object); ok && it.isMe(o) {
		it.set(nil)
	}
	return nil
}

// Replace takes over the result of a list.
func (it *item) Replace(list []any, _ string) error {
	for _, obj := range list {
		if o, ok := obj.(runtime.Object); ok && it.isMe(o) {
			it.set(o)
			return nil
		}
	}
	it.set(nil)
	return nil
}

// Resync does nothing: the reflector is told not to.
func (it *item) Resync() error { return nil }

// isMe guards against servers that do not know the field selector.
func (it *item) isMe(obj runtime.Object) bool {
	m, err := meta.Accessor(obj)
	return err == nil && m.GetName() == it.key.name
}

// version tells two contents of an object apart, also when it was deleted and made again.
func version(obj runtime.Object) string {
	if obj == nil {
		return ""
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return string(m.GetUID()) + "/" + m.GetResourceVersion()
}

func immutable(obj runtime.Object) bool {
	switch o := obj.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}
