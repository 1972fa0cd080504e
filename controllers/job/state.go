// SPDX-License-Identifier: Apache-2.0

package job

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// state is what is known of one Job, and done about it, in one call of Reconcile.
type state struct {
	*controller
	job       *batchv1.Job // our copy; its status is what will be written
	now       time.Time
	satisfied bool // no creation or deletion of a pod is still to be seen

	pods      []*corev1.Pod // all that are the Job's
	active    []*corev1.Pod
	untracked sets.Set[types.UID] // those that are counted, though the cache still shows the finalizer

	// What there will be once all that this call asks for has happened.
	running, ready, terminating int32

	// All that have ended: in the counters of the status, on their way there, and new.
	succeeded, failed int
	uncounted         uncounted
	failures          failures

	// For indexed Jobs only; the last two only with backoffLimitPerIndex.
	countedIndexes   indexes // as in the status
	succeededIndexes indexes // with those that are new
	failedIndexes    indexes
	awaited          map[int]*corev1.Pod // failed pods that stay until they are replaced, by index

	ending *batchv1.JobCondition // FailureTarget or SuccessCriteriaMet; nil while the Job goes on
	dirty  bool                  // the status is to be written
	again  time.Duration         // when to look again, whatever happens; 0 if there is nothing to wait for

	// For the metrics only.
	action  string                                 // what this call does
	judged  map[batchv1.PodFailurePolicyAction]int // failed pods that a rule was for
	flushed batchv1.JobStatus                      // as last written
}

// uncounted is status.uncountedTerminatedPods as it was when the call began.
type uncounted struct{ succeeded, failed sets.Set[types.UID] }

func (c *controller) newState(ctx context.Context, job *batchv1.Job) (*state, error) {
	satisfied := c.expectations.Satisfied(job.UID) // asked before the pods are listed
	if !satisfied {
		c.metrics.Skips.OfPods()
	}
	untracked := c.memory.untracked(job)
	pods, err := c.owned(ctx, job)
	if err != nil {
		return nil, err
	}
	return c.stateOf(job, pods, untracked, satisfied, time.Now()), nil
}

// stateOf is newState without I/O.
func (c *controller) stateOf(job *batchv1.Job, pods []*corev1.Pod, untracked sets.Set[types.UID], satisfied bool, now time.Time) *state {
	ensureUncounted(job)
	flushed := *job.Status.DeepCopy()
	active := podcontrol.Filter(pods, podcontrol.Active)
	s := &state{
		controller:  c,
		job:         job,
		now:         now,
		satisfied:   satisfied,
		action:      waits,
		flushed:     flushed,
		pods:        pods,
		active:      active,
		untracked:   untracked,
		running:     int32(len(active)),
		ready:       int32(len(podcontrol.Filter(active, podcontrol.Ready))),
		terminating: int32(len(podcontrol.Filter(pods, podcontrol.Terminating))),
		uncounted: uncounted{
			succeeded: sets.New(job.Status.UncountedTerminatedPods.Succeeded...),
			failed:    sets.New(job.Status.UncountedTerminatedPods.Failed...),
		},
	}
	s.countEnded()
	return s
}

func ensureUncounted(job *batchv1.Job) {
	if job.Status.UncountedTerminatedPods == nil {
		job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
}

// countEnded counts the pods that have ended, by what the cache shows.
func (s *state) countEnded() {
	succeeded := s.newlyEnded(s.uncounted.succeeded, func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	failed := s.newlyEnded(s.uncounted.failed, func(pod *corev1.Pod) bool { return podFailed(pod, s.job) })
	counting := podcontrol.Filter(failed, func(pod *corev1.Pod) bool { return judge(s.job.Spec.PodFailurePolicy, pod).counts() })

	s.succeeded = int(s.job.Status.Succeeded) + s.uncounted.succeeded.Len() + len(succeeded)
	s.failed = int(s.job.Status.Failed) + s.uncounted.failed.Len() + len(counting)
	s.failures = s.memory.failures(s.job).with(succeeded, failed, s.now)
	if !indexed(s.job) {
		return
	}

	completions := int(*s.job.Spec.Completions)
	s.countedIndexes = parseIndexes(s.job.Status.CompletedIndexes, completions)
	s.succeededIndexes = s.countedIndexes.and(s.newIndexes(func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded }))
	s.succeeded = s.succeededIndexes.total()
	if s.job.Spec.BackoffLimitPerIndex != nil {
		before := parseIndexes(ptr.Deref(s.job.Status.FailedIndexes, ""), completions)
		s.failedIndexes = before.and(s.newIndexes(func(pod *corev1.Pod) bool { return indexFailed(s.job, pod) }))
		s.awaited = s.awaitedPods()
	}
}

// newlyEnded returns the pods for which ended is true and that are not counted yet, nor on the way to it.
func (s *state) newlyEnded(uncounted sets.Set[types.UID], ended func(*corev1.Pod) bool) []*corev1.Pod {
	return podcontrol.Filter(s.pods, func(pod *corev1.Pod) bool {
		return s.isTracked(pod) && !uncounted.Has(pod.UID) && validIndex(s.job, pod) && ended(pod)
	})
}

// isTracked tells whether the pod is still to be counted.
func (s *state) isTracked(pod *corev1.Pod) bool { return tracked(pod) && !s.untracked.Has(pod.UID) }

// newIndexes returns the indexes of pods that have the finalizer and for which ended is true.
func (s *state) newIndexes(ended func(*corev1.Pod) bool) indexes {
	return indexesOfPods(podcontrol.Filter(s.pods, func(pod *corev1.Pod) bool {
		return tracked(pod) && validIndex(s.job, pod) && ended(pod)
	}))
}

// awaitedPods returns the last failed pod of each index that still wants one. It must not go before its replacement
// is there, which inherits its number of failures.
func (s *state) awaitedPods() map[int]*corev1.Pod {
	served := indexesOfPods(s.active).and(s.succeededIndexes).and(s.failedIndexes)
	awaited := map[int]*corev1.Pod{}
	for _, pod := range s.newlyEnded(nil, func(pod *corev1.Pod) bool { return podFailed(pod, s.job) }) {
		index := indexOf(pod)
		if served.has(index) {
			continue
		}
		last := awaited[index]
		if last == nil || absoluteFailures(pod) >= absoluteFailures(last) && !endTime(pod).Before(endTime(last)) {
			awaited[index] = pod
		}
	}
	return awaited
}

func (s *state) run(ctx context.Context) (reconcile.Result, error) {
	if s.job.Status.StartTime == nil && !suspended(s.job) {
		s.job.Status.StartTime = &metav1.Time{Time: s.now}
	}
	var err error
	if s.ending = s.end(); s.ending != nil {
		err = s.stop(ctx)
	} else {
		err = s.proceed(ctx)
	}
	s.setCounts()
	if err := s.track(ctx); err != nil {
		return reconcile.Result{}, fmt.Errorf("track pods of the Job: %w", err)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: reconcile.Earlier(s.again, s.expectations.Left(s.job.UID))}, nil
}

// stop deletes the pods of a Job that ends. They keep the finalizer until they are counted.
func (s *state) stop(ctx context.Context) error {
	deleted, err := s.deletePods(ctx, s.active, keepFinalizer)
	if deleted != len(s.active) || !s.satisfied {
		s.ending = nil // not yet: a pod may be missed
	}
	return err
}

// proceed creates and deletes pods as the Job goes on, and sees whether it is complete with that.
func (s *state) proceed(ctx context.Context) error {
	managed := s.satisfied && s.job.DeletionTimestamp == nil
	var err error
	if managed {
		s.action = tracks
		err = s.manage(ctx)
	}
	switch {
	case s.complete():
		s.ending = s.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	case managed:
		s.noteSuspension()
	}
	return err
}

// noteSuspension keeps the condition Suspended right. The clock of activeDeadlineSeconds starts anew on a resume.
func (s *state) noteSuspension() {
	if suspended(s.job) {
		if s.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended") {
			s.events.Event(s.job, corev1.EventTypeNormal, "Suspended", "Job suspended")
			s.job.Status.StartTime = nil
		}
		return
	}
	if s.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed") {
		s.events.Event(s.job, corev1.EventTypeNormal, "Resumed", "Job resumed")
		s.job.Status.StartTime = &metav1.Time{Time: s.now}
	}
}

// setCounts writes the counts of pods that have not ended.
func (s *state) setCounts() {
	status := &s.job.Status
	if status.Active != s.running || !ptr.Equal(status.Ready, &s.ready) || !ptr.Equal(status.Terminating, &s.terminating) {
		s.dirty = true
	}
	status.Active, status.Ready, status.Terminating = s.running, &s.ready, &s.terminating
}

// setCondition sets a condition and tells whether that changed anything. What was never true does not become false.
func (s *state) setCondition(t batchv1.JobConditionType, value corev1.ConditionStatus, reason, message string) bool {
	condition := s.condition(t, reason, message)
	condition.Status = value
	conditions := s.job.Status.Conditions
	for i := range conditions {
		c := &conditions[i]
		if c.Type != t {
			continue
		}
		if c.Status == value && c.Reason == reason && c.Message == message {
			return false
		}
		*c = *condition
		s.dirty = true
		return true
	}
	if value == corev1.ConditionFalse {
		return false
	}
	s.job.Status.Conditions = append(conditions, *condition)
	s.dirty = true
	return true
}

// condition makes a condition that is true from now on.
func (s *state) condition(t batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	now := metav1.Time{Time: s.now}
	return &batchv1.JobCondition{
		Type: t, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: now, Reason: reason, Message: message,
	}
}

// conditionTrue returns the Job's condition of that type if it is true.
func conditionTrue(job *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if c := &job.Status.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// lookAgain asks for another call in d, or sooner.
func (s *state) lookAgain(d time.Duration) {
	if d = max(d, batchPeriod); s.again == 0 || d < s.again {
		s.again = d
	}
}
