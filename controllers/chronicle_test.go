// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// chronicle is every version that workloads and their pods ever had, in the order in which they were written: resource versions
// are those of the whole store. What must be true at any time is looked for in each state that there was, however
// short it lasted.
type chronicle struct {
	t       *testing.T
	stop    context.CancelFunc
	writing sync.WaitGroup

	mu      sync.Mutex
	entries []entry // guarded by mu
}

type entry struct {
	version int
	object  metav1.Object
	deleted bool
}

// newChronicle begins one. It has to be read in the end.
func (c *cluster) newChronicle(t *testing.T) *chronicle {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ch := &chronicle{t: t, stop: cancel}
	apps := c.AppsV1()
	for _, begin := range []func(context.Context, metav1.ListOptions) (watch.Interface, error){
		c.CoreV1().Pods("").Watch, c.BatchV1().Jobs("").Watch, apps.StatefulSets("").Watch, apps.DaemonSets("").Watch, apps.ReplicaSets("").Watch,
	} {
		w, err := begin(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ch.writing.Go(func() { ch.write(ctx, w) })
	}
	return ch
}

func (c *chronicle) write(ctx context.Context, w watch.Interface) {
	defer w.Stop()
	for event := range w.ResultChan() {
		object, ok := event.Object.(metav1.Object)
		if !ok || event.Type == watch.Bookmark {
			continue
		}
		version, err := strconv.Atoi(object.GetResourceVersion())
		if err != nil {
			c.t.Errorf("a version is %q", object.GetResourceVersion())
		}
		c.mu.Lock()
		c.entries = append(c.entries, entry{version, object, event.Type == watch.Deleted})
		c.mu.Unlock()
	}
	if ctx.Err() == nil {
		c.t.Error("the chronicle has a gap")
	}
}

// read looks at all states that there were.
func (c *chronicle) read() {
	c.t.Helper()
	c.stop()
	c.writing.Wait()
	slices.SortStableFunc(c.entries, func(a, b entry) int { return cmp.Compare(a.version, b.version) })
	p := newPast()
	wrong := 0
	for _, e := range c.entries {
		for _, what := range p.turn(e) {
			if wrong++; wrong <= 10 {
				c.t.Errorf("at version %d, %s/%s: %s", e.version, e.object.GetNamespace(), e.object.GetName(), what)
			}
		}
	}
	c.t.Logf("%d states of %d Jobs, %d StatefulSets, %d other owners of pods, %d of them wrong", len(c.entries), len(p.succeeded), len(p.sets), len(p.wanted), wrong)
	if len(p.succeeded) == 0 || len(p.sets) == 0 || len(p.wanted) == 0 {
		c.t.Error("there is nothing in the chronicle")
	}
}

// past is a state that there was, and what led to it.
type past struct {
	jobs   map[types.UID]*batchv1.Job
	sets   map[types.UID]*appsv1.StatefulSet
	wanted map[types.UID]int32                     // the most pods that a ReplicaSet ever wanted, and one for DaemonSets
	pods   map[types.UID]map[types.UID]*corev1.Pod // by controller
	// By Job: pods that have succeeded, and those of them that nobody holds on to any more.
	succeeded, released map[types.UID]map[types.UID]bool
}

func newPast() *past {
	return &past{
		jobs: map[types.UID]*batchv1.Job{}, sets: map[types.UID]*appsv1.StatefulSet{}, wanted: map[types.UID]int32{}, pods: map[types.UID]map[types.UID]*corev1.Pod{},
		succeeded: map[types.UID]map[types.UID]bool{}, released: map[types.UID]map[types.UID]bool{},
	}
}

// turn makes it the next state, and says what is wrong with that.
func (p *past) turn(e entry) (wrong []string) {
	switch object := e.object.(type) {
	case *batchv1.Job:
		if e.deleted {
			delete(p.jobs, object.UID)
			return nil
		}
		last := p.jobs[object.UID]
		p.jobs[object.UID] = object
		return p.jobIsRight(object, last)
	case *appsv1.StatefulSet:
		p.sets[object.UID] = object
	case *appsv1.ReplicaSet:
		p.wanted[object.UID] = max(p.wanted[object.UID], *object.Spec.Replicas)
	case *appsv1.DaemonSet:
		p.wanted[object.UID] = 1
	case *corev1.Pod:
		return p.pod(object, e.deleted)
	}
	return nil
}

func (p *past) pod(pod *corev1.Pod, deleted bool) (wrong []string) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return nil
	}
	owned := within(p.pods, ref.UID)
	_, known := owned[pod.UID]
	owned[pod.UID] = pod
	if deleted {
		delete(owned, pod.UID)
	}
	switch ref.Kind {
	case "Job":
		return p.jobPodIsRight(ref.UID, pod, deleted)
	case "StatefulSet":
		if !known && !deleted {
			return p.memberIsRight(ref.UID, pod)
		}
	case "ReplicaSet", "DaemonSet":
		if running := running(owned); !known && !deleted && running > p.wanted[ref.UID] {
			wrong = append(wrong, fmt.Sprintf("a %s that never wanted more than %d pods has %d", ref.Kind, p.wanted[ref.UID], running))
		}
	}
	return wrong
}

func within[K, L comparable, V any](in map[K]map[L]V, key K) map[L]V {
	if in[key] == nil {
		in[key] = map[L]V{}
	}
	return in[key]
}

// running counts the pods that have not ended and are not to.
func running(pods map[types.UID]*corev1.Pod) (n int32) {
	for _, pod := range pods {
		if podcontrol.Active(pod) {
			n++
		}
	}
	return n
}

// jobPodIsRight is true if the Job has no more pods than it has to account for, and has noted each that nothing holds any more.
func (p *past) jobPodIsRight(uid types.UID, pod *corev1.Pod, deleted bool) (wrong []string) {
	if pod.Status.Phase == corev1.PodSucceeded {
		within(p.succeeded, uid)[pod.UID] = true
		if deleted || !slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
			within(p.released, uid)[pod.UID] = true
		}
	}
	job := p.jobs[uid]
	if job == nil {
		return nil
	}
	active := running(p.pods[uid])
	if most := ptr.Deref(job.Spec.Parallelism, 1); active > most {
		wrong = append(wrong, fmt.Sprintf("%d pods run at the same time, %d may", active, most))
	}
	if all := job.Spec.Completions; all != nil && active+int32(len(p.succeeded[uid])) > *all {
		wrong = append(wrong, fmt.Sprintf("%d pods run and %d have succeeded, of %d that are wanted", active, len(p.succeeded[uid]), *all))
	}
	if noted := notedSuccesses(job); len(p.released[uid]) > noted {
		wrong = append(wrong, fmt.Sprintf("%d pods that have succeeded were let go, and %d noted", len(p.released[uid]), noted))
	}
	return wrong
}

// notedSuccesses are those that are counted, and those that are about to be.
func notedSuccesses(job *batchv1.Job) int {
	n := int(job.Status.Succeeded)
	if uncounted := job.Status.UncountedTerminatedPods; uncounted != nil {
		n += len(uncounted.Succeeded)
	}
	return n
}

// jobIsRight is true if the Job counts each pod once, and forgets none.
func (p *past) jobIsRight(job, last *batchv1.Job) (wrong []string) {
	within(p.succeeded, job.UID)
	if noted, were := notedSuccesses(job), len(p.succeeded[job.UID]); noted > were {
		wrong = append(wrong, fmt.Sprintf("%d successes are noted, and there were %d", noted, were))
	}
	if last != nil && job.Status.Succeeded < last.Status.Succeeded {
		wrong = append(wrong, fmt.Sprintf("%d successes were counted, and %d are", last.Status.Succeeded, job.Status.Succeeded))
	}
	return wrong
}

// memberIsRight is true for a new pod of a StatefulSet if it is the only one of its ordinal, and those before it are ready.
func (p *past) memberIsRight(uid types.UID, pod *corev1.Pod) (wrong []string) {
	set := p.sets[uid]
	if set == nil {
		return nil
	}
	byOrdinal := map[int]*corev1.Pod{}
	for _, other := range p.pods[uid] {
		ordinal := ordinalOf(other)
		if byOrdinal[ordinal] != nil {
			wrong = append(wrong, fmt.Sprintf("there are two pods %d", ordinal))
		}
		byOrdinal[ordinal] = other
	}
	if set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
		return wrong
	}
	for i := range ordinalOf(pod) {
		if before := byOrdinal[i]; before == nil || !podcontrol.Ready(before) {
			wrong = append(wrong, fmt.Sprintf("it was made while pod %d is not ready", i))
		}
	}
	return wrong
}

func ordinalOf(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Name[strings.LastIndex(pod.Name, "-")+1:])
	if err != nil {
		return -1
	}
	return n
}

// A chronicle in which something is wrong is found out.
func TestChronicleTells(t *testing.T) {
	job := func(succeeded int32, uncounted ...types.UID) entry {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{UID: "owner"}, Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](2)}}
		j.Status.Succeeded, j.Status.UncountedTerminatedPods = succeeded, &batchv1.UncountedTerminatedPods{Succeeded: uncounted}
		return entry{object: j}
	}
	pod := func(kind, name string, uid types.UID, phase corev1.PodPhase, finalizers ...string) entry {
		return entry{object: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Name: name, UID: uid, Finalizers: finalizers, OwnerReferences: []metav1.OwnerReference{{Kind: kind, UID: "owner", Controller: ptr.To(true)}},
		}, Status: corev1.PodStatus{Phase: phase}}}
	}
	set := entry{object: &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{UID: "owner"}}}
	replicas := entry{object: &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{UID: "owner"}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](1)}}}
	const runs, ended, held = corev1.PodRunning, corev1.PodSucceeded, batchv1.JobTrackingFinalizer
	for what, entries := range map[string][]entry{
		"":                                  {job(0), pod("Job", "p", "p", runs, held), pod("Job", "p", "p", ended, held), job(0, "p"), pod("Job", "p", "p", ended), job(1)},
		"2 pods run at the same time":       {job(0), pod("Job", "p", "p", runs, held), pod("Job", "q", "q", runs, held)},
		"1 pods run and 2 have succeeded":   {job(0), pod("Job", "p", "p", ended, held), pod("Job", "q", "q", ended, held), pod("Job", "r", "r", runs, held)},
		"were let go, and 0 noted":          {job(0), pod("Job", "p", "p", ended)},
		"2 successes are noted":             {job(0), pod("Job", "p", "p", ended, held), job(1, "p")},
		"1 successes were counted, and 0":   {job(0), pod("Job", "p", "p", ended, held), job(1), job(0)},
		"there are two pods 0":              {set, pod("StatefulSet", "db-0", "p", runs), pod("StatefulSet", "db-0", "q", runs)},
		"made while pod 0 is not ready":     {set, pod("StatefulSet", "db-0", "p", runs), pod("StatefulSet", "db-1", "q", runs)},
		"never wanted more than 1 pods has": {replicas, pod("ReplicaSet", "a", "a", runs), pod("ReplicaSet", "b", "b", runs)},
	} {
		p := newPast()
		var wrong []string
		for _, e := range entries {
			wrong = append(wrong, p.turn(e)...)
		}
		if (what == "") != (len(wrong) == 0) || !strings.Contains(strings.Join(wrong, "; "), what) {
			t.Errorf("what is wrong is %q, want %q", wrong, what)
		}
	}
}
