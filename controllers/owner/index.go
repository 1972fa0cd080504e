// SPDX-License-Identifier: Apache-2.0

package owner

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// controllerIndex is the name of the index on informers.
const controllerIndex = "controller"

// Index lets Owned and Orphans find an informer's objects. Call it before the informer starts.
func Index(informer cache.SharedIndexInformer) error {
	return reconcile.AddIndex(informer, controllerIndex, func(obj any) ([]string, error) {
		object, ok := obj.(metav1.Object)
		if !ok {
			return nil, nil
		}
		if ref := metav1.GetControllerOfNoCopy(object); ref != nil {
			return []string{string(ref.UID)}, nil
		}
		return []string{orphansOf(object.GetNamespace())}, nil
	})
}

// orphansOf is the index key of objects without a controller: no UID contains a slash.
func orphansOf(namespace string) string { return "orphans/" + namespace }

// Owned returns the objects whose controller has this UID.
func Owned[T any](indexer cache.Indexer, controller types.UID) ([]T, error) {
	return reconcile.ByIndex[T](indexer, controllerIndex, string(controller))
}

// Orphans returns the objects of the namespace that have no controller.
func Orphans[T any](indexer cache.Indexer, namespace string) ([]T, error) {
	return reconcile.ByIndex[T](indexer, controllerIndex, orphansOf(namespace))
}

// Candidates returns the objects that a Claimer decides about: those that are the owner's, and those that may become so.
func Candidates[T any](indexer cache.Indexer, of metav1.Object) ([]T, error) {
	owned, err := Owned[T](indexer, of.GetUID())
	if err != nil {
		return nil, err
	}
	orphans, err := Orphans[T](indexer, of.GetNamespace())
	return append(owned, orphans...), err
}
