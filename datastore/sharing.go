// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// sharing is a codec whose objects share what managedFields say in many of them: which fields a manager owns. It is a
// third of a pod, and the same for all pods that a controller makes, and for all versions of one that the watch cache
// keeps. What is decoded is never changed in place, by the rules of that cache.
type sharing struct {
	runtime.Codec
	sets *fieldSets
}

// Decode implements runtime.Codec.
func (s sharing) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := s.Codec.Decode(data, defaults, into)
	if typed, ok := obj.(metav1.ObjectMetaAccessor); err == nil && ok {
		if meta, ok := typed.GetObjectMeta().(*metav1.ObjectMeta); ok {
			s.sets.share(meta.ManagedFields)
		}
	}
	return obj, gvk, err
}

// mostSets bounds what fieldSets remembers. There are a few for each kind.
const mostSets = 4096

// fieldSets are those that were seen lately.
type fieldSets struct {
	mu   sync.Mutex
	seen map[string][]byte // guarded by mu; a key is its value
}

func (f *fieldSets) share(entries []metav1.ManagedFieldsEntry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range entries {
		fields := entries[i].FieldsV1
		if fields == nil {
			continue
		}
		raw := fields.Raw // its accessors would copy
		if known, ok := f.seen[string(raw)]; ok {
			fields.Raw = known
			continue
		}
		if f.seen == nil || len(f.seen) >= mostSets {
			f.seen = map[string][]byte{} // the sets that are in use come back
		}
		f.seen[string(raw)] = raw
	}
}
