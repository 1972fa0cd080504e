// SPDX-License-Identifier: Apache-2.0

package job

import (
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// memory is what the controller knows about Jobs and the cache does not say (yet). All of it may be
// lost: pods may then be created sooner after a failure than they would have been.
type memory struct {
	mu   sync.Mutex
	jobs map[types.NamespacedName]*notes // guarded by mu, as are the notes
}

type notes struct {
	uid       types.UID
	written   string              // resourceVersion of our last write of the Job; "" if there was none
	untracked sets.Set[types.UID] // pods whose finalizer we removed, which the cache still shows
	failures  failures
}

// of returns the notes about a Job. A Job of the same name that was there before is forgotten.
func (m *memory) of(job *batchv1.Job) *notes {
	key := reconcile.KeyOf(job)
	n := m.jobs[key]
	if n == nil || n.uid != job.UID {
		n = &notes{uid: job.UID, untracked: sets.New[types.UID]()}
		m.jobs[key] = n
	}
	return n
}

// upToDate tells whether the cached Job is not older than what we wrote.
func (m *memory) upToDate(cached *batchv1.Job) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	written := m.of(cached).written
	if written == "" {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(cached.ResourceVersion, written)
	return err != nil || order >= 0
}

func (m *memory) wrote(job *batchv1.Job) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(job).written = job.ResourceVersion
}

// untracked returns the pods whose finalizer is gone though the cache may still show it.
func (m *memory) untracked(job *batchv1.Job) sets.Set[types.UID] {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of(job).untracked.Clone()
}

func (m *memory) expectUntracked(job *batchv1.Job, uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(job).untracked.Insert(uid)
}

// untrackedSeen notes that the cache shows the pod without the finalizer, or not at all.
func (m *memory) untrackedSeen(key types.NamespacedName, uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.jobs[key]; n != nil {
		n.untracked.Delete(uid)
	}
}

func (m *memory) failures(job *batchv1.Job) failures {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of(job).failures
}

func (m *memory) setFailures(job *batchv1.Job, f failures) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(job).failures = f
}

// forget drops the notes about a Job.
func (m *memory) forget(key types.NamespacedName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.jobs, key)
}
