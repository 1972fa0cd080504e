// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// ExpectationsTimeout is after how long an owner stops waiting for events that did not come.
const ExpectationsTimeout = 5 * time.Minute

// Expectations keep a controller from creating or deleting twice what it has already created or
// deleted but does not see in its cache yet. They are kept per owner, by the owner's UID.
//
// Creations are counted: their names are not known before. Deletions are tracked by name, because a
// graceful deletion is seen at least twice: as an update that sets the deletion timestamp, and as a deletion.
type Expectations struct {
	mu     sync.Mutex
	owners map[types.UID]*expectation // guarded by mu
}

type expectation struct {
	creations int
	deletions sets.Set[types.NamespacedName]
	since     time.Time
}

func NewExpectations() *Expectations {
	return &Expectations{owners: map[types.UID]*expectation{}}
}

// Satisfied tells whether everything expected for the owner was seen, or waited for long enough.
func (e *Expectations) Satisfied(owner types.UID) bool { return e.Left(owner) == 0 }

// Left is for how long the owner may still wait; 0 if it does not. It has to be looked at again then: what comes and goes while
// a watch is away is never seen, and nothing else need happen.
func (e *Expectations) Left(owner types.UID) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.owners[owner]
	if x == nil || x.creations <= 0 && x.deletions.Len() == 0 {
		return 0
	}
	return max(0, ExpectationsTimeout-time.Since(x.since))
}

// ExpectCreations replaces what is expected for the owner by n creations.
func (e *Expectations) ExpectCreations(owner types.UID, n int) {
	e.expect(owner, &expectation{creations: n})
}

// ExpectDeletions replaces what is expected for the owner by the deletion of these objects.
func (e *Expectations) ExpectDeletions(owner types.UID, keys ...types.NamespacedName) {
	e.expect(owner, &expectation{deletions: sets.New(keys...)})
}

// Expect replaces what is expected for the owner by n creations and the deletion of these objects.
func (e *Expectations) Expect(owner types.UID, n int, keys ...types.NamespacedName) {
	e.expect(owner, &expectation{creations: n, deletions: sets.New(keys...)})
}

func (e *Expectations) expect(owner types.UID, x *expectation) {
	e.mu.Lock()
	defer e.mu.Unlock()
	x.since = time.Now()
	e.owners[owner] = x
}

// Created notes that an object of the owner was seen, or could not be created after all.
func (e *Expectations) Created(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.owners[owner]; x != nil {
		x.creations--
	}
}

// Deleted notes that an object of the owner was seen to go, or could not be deleted after all.
func (e *Expectations) Deleted(owner types.UID, key types.NamespacedName) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.owners[owner]; x != nil {
		x.deletions.Delete(key)
	}
}

// Forget drops what is kept about an owner that is gone.
func (e *Expectations) Forget(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.owners, owner)
}
