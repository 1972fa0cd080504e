// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Watch maps the events of one informer to keys. It is made by On.
type Watch struct {
	informer cache.SharedIndexInformer
	handle   func(q Queue, old, new any)
}

// On calls handle for each event of the informer. old is the zero value when the object was added,
// new is the zero value when it was deleted. An object that was deleted and created again under the
// same name is always seen as a deletion and an addition. handle must be quick and must not block.
func On[T metav1.Object](informer cache.SharedIndexInformer, handle func(q Queue, old, new T)) Watch {
	return Watch{
		informer: informer,
		handle: func(q Queue, old, new any) {
			o, _ := old.(T)
			n, _ := new.(T)
			handle(q, o, n)
		},
	}
}

// OnSelf queues the key of each object that changed: what a controller does for its primary resource.
func OnSelf[T metav1.Object](informer cache.SharedIndexInformer) Watch {
	return OnAny(informer, func(q Queue, obj T) { q.Add(KeyOf(obj)) })
}

// OnAny calls handle for the object as it is now, or as it last was.
func OnAny[T metav1.Object](informer cache.SharedIndexInformer, handle func(q Queue, obj T)) Watch {
	return Watch{
		informer: informer,
		handle: func(q Queue, old, new any) {
			obj := new
			if obj == nil {
				obj = old
			}
			if typed, ok := obj.(T); ok {
				handle(q, typed)
			}
		},
	}
}

// OnOwned queues the controller of each object that changed, before and after the change,
// if it is of the given kind.
func OnOwned[T metav1.Object](informer cache.SharedIndexInformer, kind schema.GroupVersionKind) Watch {
	return Watch{informer: informer, handle: queueOwners[T](kind)}
}

// OnOwnedButNew is OnOwned without additions: for objects that hardly anybody makes but their controller itself.
func OnOwnedButNew[T metav1.Object](informer cache.SharedIndexInformer, kind schema.GroupVersionKind) Watch {
	queue := queueOwners[T](kind)
	return Watch{informer: informer, handle: func(q Queue, old, new any) {
		if old != nil {
			queue(q, old, new)
		}
	}}
}

func queueOwners[T metav1.Object](kind schema.GroupVersionKind) func(q Queue, old, new any) {
	return func(q Queue, old, new any) {
		for _, obj := range []any{old, new} {
			typed, ok := obj.(T)
			if !ok {
				continue
			}
			if key, ok := OwnerKey(typed, kind); ok {
				q.Add(key)
			}
		}
	}
}

// OwnerKey returns the key of the object's controller if that is of the given kind.
func OwnerKey(obj metav1.Object, kind schema.GroupVersionKind) (types.NamespacedName, bool) {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil || ref.Kind != kind.Kind {
		return types.NamespacedName{}, false
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || gv.Group != kind.Group {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: ref.Name}, true
}

// fanOut is the one handler that an informer gets: it passes each event to all watches.
type fanOut []func(old, new any)

func (f fanOut) OnAdd(obj any, _ bool) { f.send(nil, obj) }

func (f fanOut) OnUpdate(old, new any) {
	o, okOld := old.(metav1.Object)
	n, okNew := new.(metav1.Object)
	if okOld && okNew && o.GetUID() != n.GetUID() {
		f.send(old, nil)
		f.send(nil, new)
		return
	}
	f.send(old, new)
}

func (f fanOut) OnDelete(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	f.send(obj, nil)
}

func (f fanOut) send(old, new any) {
	for _, handle := range f {
		handle(old, new)
	}
}
