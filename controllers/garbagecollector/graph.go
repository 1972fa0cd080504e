// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"fmt"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// identity says which object something is about.
type identity struct {
	apiVersion, kind string
	namespace, name  string
	uid              types.UID
}

func (id identity) String() string {
	return fmt.Sprintf("[%s/%s, namespace: %s, name: %s, uid: %s]", id.apiVersion, id.kind, id.namespace, id.name, id.uid)
}

// object is what the graph knows of an object.
type object struct {
	identity
	owners     []metav1.OwnerReference
	deleting   bool
	foreground bool // deleting, and waits for its dependents to go
	orphan     bool // deleting, and waits for its dependents to forget it
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// graph holds all objects by UID, and who refers to whom. It decides which objects are worth a look.
type graph struct {
	queue func(uid types.UID, after time.Duration)

	mu         sync.Mutex
	objects    map[types.UID]*object
	dependents map[types.UID]map[types.UID]struct{} // of an owner, which need not be in objects
	open       bool                                 // objects go to the queue; until then to waiting
	waiting    map[types.UID]struct{}
}

func newGraph(queue func(types.UID, time.Duration)) *graph {
	return &graph{
		queue:      queue,
		objects:    map[types.UID]*object{},
		dependents: map[types.UID]map[types.UID]struct{}{},
		waiting:    map[types.UID]struct{}{},
	}
}

// release lets the queue have what is worth a look: the graph is as complete as it gets.
func (g *graph) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	for uid := range g.waiting {
		g.queue(uid, 0)
	}
	g.waiting = nil
}

func (g *graph) released() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *graph) enqueue(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enqueueLocked(uid, 0)
}

func (g *graph) enqueueLocked(uid types.UID, after time.Duration) {
	if !g.open {
		g.waiting[uid] = struct{}{}
		return
	}
	g.queue(uid, after)
}

// observe takes an object in as it is now.
func (g *graph) observe(kind schema.GroupVersionKind, m metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	uid := m.GetUID()
	old := g.objects[uid]
	deleting := m.GetDeletionTimestamp() != nil
	now := &object{
		deleting:   deleting,
		foreground: deleting && slices.Contains(m.GetFinalizers(), metav1.FinalizerDeleteDependents),
		orphan:     deleting && slices.Contains(m.GetFinalizers(), metav1.FinalizerOrphanDependents),
		owners:     m.GetOwnerReferences(),
	}
	if old != nil {
		now.identity = old.identity
	} else {
		now.identity = identity{
			apiVersion: kind.GroupVersion().String(), kind: kind.Kind,
			namespace: m.GetNamespace(), name: m.GetName(), uid: uid,
		}
	}
	g.objects[uid] = now
	g.rewire(old, now)

	switch {
	case now.orphan:
		// Dependents that the graph does not have yet would keep their owner, and follow it.
		g.enqueueLocked(uid, unseenDelay)
	case now.foreground:
		g.enqueueLocked(uid, 0)
		if old == nil || !old.foreground {
			g.enqueueDependents(uid)
		}
	}
	if old == nil {
		// Those that refer to something else by this UID have waited for it in vain.
		for dependent := range g.dependents[uid] {
			if d := g.objects[dependent]; d != nil && !g.refersTo(d, now) {
				g.enqueueLocked(dependent, 0)
			}
		}
	}
	if old == nil || !slices.EqualFunc(old.owners, now.owners, sameRef) {
		switch g.ownersState(now) {
		case unseen:
			g.enqueueLocked(uid, unseenDelay)
		case suspicious:
			g.enqueueLocked(uid, 0)
		}
	}
}

func sameRef(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && a.Kind == b.Kind && a.APIVersion == b.APIVersion && a.Name == b.Name && blocks(a) == blocks(b)
}

// rewire brings the index of dependents up to date, and queues owners that no longer need to wait for the object.
func (g *graph) rewire(old, now *object) {
	if old != nil {
		for _, ref := range old.owners {
			i := slices.IndexFunc(now.owners, func(r metav1.OwnerReference) bool { return r.UID == ref.UID })
			if i < 0 {
				g.unlink(ref.UID, old.uid)
			}
			if blocks(ref) && (i < 0 || !blocks(now.owners[i])) {
				g.enqueueIfForeground(ref.UID)
			}
		}
	}
	for _, ref := range now.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = map[types.UID]struct{}{}
		}
		g.dependents[ref.UID][now.uid] = struct{}{}
	}
}

func (g *graph) unlink(owner, dependent types.UID) {
	delete(g.dependents[owner], dependent)
	if len(g.dependents[owner]) == 0 {
		delete(g.dependents, owner)
	}
}

func (g *graph) enqueueDependents(uid types.UID) {
	for dependent := range g.dependents[uid] {
		g.enqueueLocked(dependent, 0)
	}
}

func (g *graph) enqueueIfForeground(uid types.UID) {
	if o := g.objects[uid]; o != nil && o.foreground {
		g.enqueueLocked(uid, 0)
	}
}

// remove drops an object that is gone: its dependents may have to follow, and its owners may have waited for it.
func (g *graph) remove(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	obj := g.objects[uid]
	if obj == nil {
		return
	}
	delete(g.objects, uid)
	for _, ref := range obj.owners {
		g.unlink(ref.UID, uid)
		g.enqueueIfForeground(ref.UID)
	}
	g.enqueueDependents(uid)
}

// ownersState says what the graph knows of an object's owners.
type ownersState int

const (
	known      ownersState = iota // all are there, and none waits for its dependents
	unseen                        // one is not there (yet)
	suspicious                    // one is something else than the reference says, or waits for its dependents
)

func (g *graph) ownersState(obj *object) ownersState {
	state := known
	for _, ref := range obj.owners {
		owner := g.objects[ref.UID]
		switch {
		case owner == nil:
			state = max(state, unseen)
		case owner.foreground || !matches(ref, owner, obj):
			state = suspicious
		}
	}
	return state
}

// matches tells whether the reference of a dependent describes the owner.
func matches(ref metav1.OwnerReference, owner, dependent *object) bool {
	return ref.APIVersion == owner.apiVersion && ref.Kind == owner.kind && ref.Name == owner.name &&
		(owner.namespace == "" || owner.namespace == dependent.namespace)
}

// refersTo tells whether all references of the dependent to the owner's UID describe the owner.
func (g *graph) refersTo(dependent, owner *object) bool {
	return !slices.ContainsFunc(dependent.owners, func(ref metav1.OwnerReference) bool {
		return ref.UID == owner.uid && !matches(ref, owner, dependent)
	})
}

func (g *graph) get(uid types.UID) (object, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	obj := g.objects[uid]
	if obj == nil {
		return object{}, false
	}
	return *obj, true
}

// settled tells whether the graph has all owners and there is nothing to do about the object.
func (g *graph) settled(obj object) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ownersState(&obj) == known
}

// observed tells whether all of these are in the graph, so that their end will be noticed.
func (g *graph) observed(uids []types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !slices.ContainsFunc(uids, func(uid types.UID) bool { return g.objects[uid] == nil })
}

func (g *graph) hasDependents(uid types.UID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.dependents[uid]) > 0
}

func (g *graph) dependentsOf(uid types.UID) []object {
	g.mu.Lock()
	defer g.mu.Unlock()
	var dependents []object
	for dependent := range g.dependents[uid] {
		if obj := g.objects[dependent]; obj != nil {
			dependents = append(dependents, *obj)
		}
	}
	return dependents
}

// blockingDependents are those that the owner waits for when it is deleted in the foreground.
func (g *graph) blockingDependents(uid types.UID) []object {
	return slices.DeleteFunc(g.dependentsOf(uid), func(dependent object) bool {
		return !slices.ContainsFunc(dependent.owners, func(ref metav1.OwnerReference) bool { return ref.UID == uid && blocks(ref) })
	})
}

func (g *graph) dependentInForeground(uid types.UID) bool {
	return slices.ContainsFunc(g.dependentsOf(uid), func(dependent object) bool { return dependent.foreground })
}
