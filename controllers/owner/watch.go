// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Adopters are objects that may adopt others.
type Adopters[T metav1.Object] struct {
	In       func(namespace string) ([]T, error) // all of a namespace
	Selector func(T) *metav1.LabelSelector       // what selects those that are adopted
}

// Of returns who may want to adopt an orphan.
func (a Adopters[T]) Of(orphan metav1.Object) []types.NamespacedName {
	if len(orphan.GetLabels()) == 0 {
		return nil
	}
	all, err := a.In(orphan.GetNamespace())
	if err != nil {
		return nil
	}
	var keys []types.NamespacedName
	for _, adopter := range all {
		selector, err := metav1.LabelSelectorAsSelector(a.Selector(adopter))
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(orphan.GetLabels())) {
			keys = append(keys, reconcile.KeyOf(adopter))
		}
	}
	return keys
}

// OnOrphans queues who may want to adopt an object that has come to have no controller, or has none and other labels than before.
func OnOrphans[D interface {
	comparable
	metav1.Object
}, T metav1.Object](informer cache.SharedIndexInformer, adopters Adopters[T]) reconcile.Watch {
	return reconcile.On(informer, func(q reconcile.Queue, old, new D) {
		var none D
		if new == none || !orphaned(new) || old != none && orphaned(old) && maps.Equal(old.GetLabels(), new.GetLabels()) {
			return
		}
		for _, key := range adopters.Of(new) {
			q.Add(key)
		}
	})
}

func orphaned(obj metav1.Object) bool {
	return metav1.GetControllerOfNoCopy(obj) == nil && obj.GetDeletionTimestamp() == nil
}
