// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var kind = schema.GroupVersionKind{Version: "v1", Kind: "Thing"}

type world struct {
	*graph
	queued map[types.UID]time.Duration
}

func newWorld() *world {
	w := &world{queued: map[types.UID]time.Duration{}}
	w.graph = newGraph(func(uid types.UID, after time.Duration) { w.queued[uid] = after })
	w.release()
	return w
}

// take returns what is queued, and forgets it.
func (w *world) take() string {
	var uids []string
	for uid := range maps.Keys(w.queued) {
		uids = append(uids, string(uid))
	}
	clear(w.queued)
	slices.Sort(uids)
	return strings.Join(uids, " ")
}

type change func(*metav1.ObjectMeta)

func ownedBy(names ...string) change {
	return func(m *metav1.ObjectMeta) {
		for _, name := range names {
			yes := true
			m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Thing", Name: name, UID: types.UID(name), BlockOwnerDeletion: &yes})
		}
	}
}

func deletedWith(finalizer string) change {
	return func(m *metav1.ObjectMeta) {
		now := metav1.Now()
		m.DeletionTimestamp, m.Finalizers = &now, []string{finalizer}
	}
}

func in(namespace string) change { return func(m *metav1.ObjectMeta) { m.Namespace = namespace } }

func (w *world) see(name string, changes ...change) {
	m := metav1.ObjectMeta{Name: name, UID: types.UID(name), Namespace: "ns"}
	for _, change := range changes {
		change(&m)
	}
	w.observe(kind, &m)
}

func TestGraph(t *testing.T) {
	for _, tc := range []struct {
		what string
		do   func(w *world)
		want string // is worth a look
	}{
		{"an owner that is there", func(w *world) { w.see("owner"); w.see("a", ownedBy("owner")) }, ""},
		{"an owner that is not there", func(w *world) { w.see("a", ownedBy("owner")) }, "a"},
		{"an owner in another namespace", func(w *world) { w.see("owner", in("other")); w.see("a", ownedBy("owner")) }, "a"},
		{"an owner in another namespace that comes later", func(w *world) {
			w.see("a", ownedBy("owner"))
			w.take()
			w.see("owner", in("other"))
		}, "a"},
		{"an owner that comes later", func(w *world) { w.see("a", ownedBy("owner")); w.take(); w.see("owner") }, ""},
		{"an owner that goes", func(w *world) { w.see("owner"); w.see("a", ownedBy("owner")); w.see("b"); w.remove("owner") }, "a"},
		{"deletion in the foreground", func(w *world) {
			w.see("owner")
			w.see("a", ownedBy("owner"))
			w.see("owner", deletedWith(metav1.FinalizerDeleteDependents))
		}, "a owner"},
		{"the last dependent goes", func(w *world) {
			w.see("owner", deletedWith(metav1.FinalizerDeleteDependents))
			w.see("a", ownedBy("owner"))
			w.take()
			w.remove("a")
		}, "owner"},
		{"a dependent lets its owner go", func(w *world) {
			w.see("owner", deletedWith(metav1.FinalizerDeleteDependents))
			w.see("a", ownedBy("owner"))
			w.take()
			w.see("a")
		}, "owner"},
		{"deletion that orphans", func(w *world) {
			w.see("owner")
			w.see("a", ownedBy("owner"))
			w.see("owner", deletedWith(metav1.FinalizerOrphanDependents))
		}, "owner"},
		{"nothing new", func(w *world) { w.see("owner"); w.see("a", ownedBy("owner")); w.see("a", ownedBy("owner")) }, ""},
	} {
		w := newWorld()
		tc.do(w)
		if got := w.take(); got != tc.want {
			t.Errorf("%s: queued %q, want %q", tc.what, got, tc.want)
		}
	}
}

// Owners and dependents come by different watches: an owner that orphans waits until the others have caught up.
func TestOrphaningWaitsForOtherWatches(t *testing.T) {
	w := newWorld()
	w.see("owner", deletedWith(metav1.FinalizerOrphanDependents))
	if after, ok := w.queued["owner"]; !ok || after != unseenDelay {
		t.Errorf("queued is %t, after %v; want after %v", ok, after, unseenDelay)
	}
}

func TestBlockingDependents(t *testing.T) {
	w := newWorld()
	w.see("owner")
	w.see("a", ownedBy("owner"))
	w.see("b", ownedBy("owner"), func(m *metav1.ObjectMeta) { m.OwnerReferences[0].BlockOwnerDeletion = nil })
	if got := w.blockingDependents("owner"); len(got) != 1 || got[0].name != "a" {
		t.Errorf("blocking are %v, want a", got)
	}
	if n := len(w.dependentsOf("owner")); n != 2 {
		t.Errorf("%d dependents, want 2", n)
	}
}

func TestResources(t *testing.T) {
	all := metav1.Verbs{"delete", "list", "watch"}
	r := newResources(
		[]*metav1.APIGroup{{Name: "autoscaling", PreferredVersion: metav1.GroupVersionForDiscovery{Version: "v2"}}},
		[]*metav1.APIResourceList{
			{GroupVersion: "v1", APIResources: []metav1.APIResource{
				{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: all}, {Name: "pods/log", Kind: "Pod"},
				{Name: "events", Kind: "Event", Namespaced: true, Verbs: all}, {Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: metav1.Verbs{"create"}},
			}},
			{GroupVersion: "autoscaling/v1", APIResources: []metav1.APIResource{{Name: "horizontalpodautoscalers", Kind: "HorizontalPodAutoscaler", Namespaced: true, Verbs: all}}},
			{GroupVersion: "autoscaling/v2", APIResources: []metav1.APIResource{{Name: "horizontalpodautoscalers", Kind: "HorizontalPodAutoscaler", Namespaced: true, Verbs: all}}},
		})
	var watched []string
	for _, res := range r.watch {
		watched = append(watched, res.gvr.GroupVersion().String()+"/"+res.gvr.Resource)
	}
	if want := []string{"v1/pods", "autoscaling/v2/horizontalpodautoscalers"}; !slices.Equal(slices.Sorted(slices.Values(watched)), slices.Sorted(slices.Values(want))) {
		t.Errorf("watched are %v, want %v", watched, want)
	}
	if _, ok := r.byKind[schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler"}]; !ok {
		t.Error("references to the other version are not understood")
	}
}
