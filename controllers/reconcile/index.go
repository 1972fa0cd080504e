// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"

	"k8s.io/client-go/tools/cache"
)

// AddIndex lets ByIndex find an informer's objects, by the keys that index has for each. An index of that name that is there
// already is kept: it is the same one of another controller. Call it before the informer starts.
func AddIndex(informer cache.SharedIndexInformer, name string, index cache.IndexFunc) error {
	if _, ok := informer.GetIndexer().GetIndexers()[name]; ok {
		return nil
	}
	if err := informer.AddIndexers(cache.Indexers{name: index}); err != nil {
		return fmt.Errorf("add index %q: %w", name, err)
	}
	return nil
}

// ByIndex returns the objects that an index has under a key. They are shared with the cache.
func ByIndex[T any](indexer cache.Indexer, name, key string) ([]T, error) {
	objects, err := indexer.ByIndex(name, key)
	if err != nil {
		return nil, err
	}
	found := make([]T, len(objects))
	for i, object := range objects {
		found[i] = object.(T)
	}
	return found, nil
}
