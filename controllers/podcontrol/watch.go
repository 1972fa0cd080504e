// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// OnPods queues the owner of each pod that changed, before and after the change, if it is of the given kind. For a
// pod that has no owner it queues those objects among all in the pod's namespace whose selector matches: they may adopt it.
func OnPods[T metav1.Object](
	pods cache.SharedIndexInformer, kind schema.GroupVersionKind,
	all func(namespace string) ([]T, error), selector func(T) *metav1.LabelSelector,
) reconcile.Watch {
	return reconcile.On(pods, func(q reconcile.Queue, old, new *corev1.Pod) {
		for _, pod := range []*corev1.Pod{old, new} {
			if pod == nil {
				continue
			}
			if key, ok := reconcile.OwnerKey(pod, kind); ok {
				q.Add(key)
			}
		}
		if new == nil || !becameAdoptable(old, new) {
			return
		}
		objs, err := all(new.Namespace)
		if err != nil {
			return
		}
		for _, obj := range objs {
			s, err := metav1.LabelSelectorAsSelector(selector(obj))
			if err == nil && !s.Empty() && s.Matches(labels.Set(new.Labels)) {
				q.Add(reconcile.KeyOf(obj))
			}
		}
	})
}

// becameAdoptable tells whether somebody may want to adopt the pod who did not before.
func becameAdoptable(old, new *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(new)
	if ref != nil || new.DeletionTimestamp != nil || len(new.Labels) == 0 {
		return false
	}
	return old == nil || !maps.Equal(old.Labels, new.Labels) || !apiequality.Semantic.DeepEqual(metav1.GetControllerOfNoCopy(old), ref)
}
