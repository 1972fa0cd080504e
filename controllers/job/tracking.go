// SPDX-License-Identifier: Apache-2.0

package job

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// maxUncounted bounds how many pods are on their way into the counters at once, so that the status stays small.
const maxUncounted = 500

// track counts the pods that have ended, and ends the Job if it is to end and all are counted.
func (s *state) track(ctx context.Context) error {
	withFinalizer := sets.New[types.UID]()
	for _, pod := range s.pods {
		if s.isTracked(pod) {
			withFinalizer.Insert(pod.UID)
		}
	}
	s.settle(withFinalizer)
	ended, all := s.noteEnded()
	s.announceEnd()

	// The first step is written before the second is done: otherwise a crash could lose a pod.
	if s.dirty {
		if err := s.flush(ctx); err != nil {
			return err
		}
		s.memory.setFailures(s.job, s.failures)
	}
	untrackErr := s.untrackAll(ctx, ended, withFinalizer)
	s.settle(withFinalizer)
	if untrackErr != nil {
		if s.dirty {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
		return untrackErr
	}

	finished := all && s.finish()
	if !s.dirty {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if finished {
		s.countFinished()
		s.tellEnd()
	}
	return nil
}

// settle is the third step: pods that lost the finalizer go from the uncounted into the counters.
func (s *state) settle(withFinalizer sets.Set[types.UID]) {
	status := &s.job.Status
	count := func(uids *[]types.UID, counter *int32) {
		kept := slices.DeleteFunc(slices.Clone(*uids), func(uid types.UID) bool { return !withFinalizer.Has(uid) })
		if n := len(*uids) - len(kept); n > 0 {
			*counter += int32(n)
			*uids = kept
			s.dirty = true
		}
	}
	count(&status.UncountedTerminatedPods.Succeeded, &status.Succeeded)
	count(&status.UncountedTerminatedPods.Failed, &status.Failed)
}

// noteEnded is the first step: it notes pods that have ended in the status and returns those that may lose the
// finalizer. all is false if some are left for the next call.
func (s *state) noteEnded() (ended []*corev1.Pod, all bool) {
	if indexed(s.job) { // in their order, so that what is left out is the end of the list
		slices.SortStableFunc(s.pods, func(a, b *corev1.Pod) int { return cmp.Compare(indexOf(a), indexOf(b)) })
	}
	uncounted := s.job.Status.UncountedTerminatedPods
	indexesDone := sets.New[int]()
	all = true
	for _, pod := range s.pods {
		if !s.isTracked(pod) || !s.mayUntrack(pod) {
			continue
		}
		ended = append(ended, pod)
		switch {
		case pod.Status.Phase == corev1.PodSucceeded && !s.uncounted.failed.Has(pod.UID):
			if !indexed(s.job) && !s.uncounted.succeeded.Has(pod.UID) {
				uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
				s.dirty = true
			}
			if index := indexOf(pod); indexed(s.job) && validIndex(s.job, pod) && !s.countedIndexes.has(index) {
				indexesDone.Insert(index) // the index is enough: no need for the UID
				s.dirty = true
			}
		case s.endsAsFailed(pod):
			v := judge(s.job.Spec.PodFailurePolicy, pod)
			if v.action != "" {
				if s.judged == nil {
					s.judged = map[batchv1.PodFailurePolicyAction]int{}
				}
				s.judged[v.action]++
			}
			if v.counts() {
				uncounted.Failed = append(uncounted.Failed, pod.UID)
				s.dirty = true
			}
		}
		if indexesDone.Len()+len(uncounted.Succeeded)+len(uncounted.Failed) >= maxUncounted {
			all = false
			break
		}
	}
	if indexed(s.job) {
		s.noteIndexes(indexesOf(indexesDone))
	}
	return ended, all
}

// mayUntrack tells whether a pod need not be kept any longer.
func (s *state) mayUntrack(pod *corev1.Pod) bool {
	if s.job.DeletionTimestamp != nil || s.ending != nil || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if !podFailed(pod, s.job) {
		return false
	}
	kept := s.awaited[indexOf(pod)]
	return kept == nil || kept.UID != pod.UID
}

// endsAsFailed tells whether a pod that loses the finalizer has failed, and is not counted yet. When a Job fails, each pod
// that still runs has failed.
func (s *state) endsAsFailed(pod *corev1.Pod) bool {
	jobFails := s.ending != nil && s.ending.Type == batchv1.JobFailureTarget
	return (podFailed(pod, s.job) || jobFails) && !s.uncounted.failed.Has(pod.UID) && validIndex(s.job, pod)
}

// noteIndexes writes the indexes that have succeeded and failed.
func (s *state) noteIndexes(done indexes) {
	status := &s.job.Status
	s.succeededIndexes = s.succeededIndexes.and(done)
	if text := s.succeededIndexes.String(); text != status.CompletedIndexes {
		status.CompletedIndexes = text
		s.dirty = true
	}
	status.Succeeded = int32(s.succeededIndexes.total())
	var failed *string
	if s.job.Spec.BackoffLimitPerIndex != nil {
		failed = ptr.To(s.failedIndexes.String())
	}
	if !ptr.Equal(status.FailedIndexes, failed) {
		status.FailedIndexes = failed
		s.dirty = true
	}
}

// announceEnd writes the condition that the Job is to end, unless it is there.
func (s *state) announceEnd() {
	if s.ending != nil && conditionTrue(s.job, s.ending.Type) == nil {
		s.job.Status.Conditions = append(s.job.Status.Conditions, *s.ending)
		s.dirty = true
	}
}

// flush writes the status.
func (s *state) flush(ctx context.Context) error {
	job, err := s.client.BatchV1().Jobs(s.job.Namespace).UpdateStatus(ctx, s.job, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status of the Job: %w", err)
	}
	s.memory.wrote(job)
	ensureUncounted(job)
	s.job = job
	s.dirty = false
	s.countEndedPods(&s.flushed)
	s.flushed = *job.Status.DeepCopy()
	return nil
}

// untrackAll is the second step: it removes finalizers. Those that it removed are removed from withFinalizer too.
func (s *state) untrackAll(ctx context.Context, pods []*corev1.Pod, withFinalizer sets.Set[types.UID]) error {
	for _, pod := range pods {
		s.memory.expectUntracked(s.job, pod.UID)
	}
	var firstErr error
	for i, err := range podcontrol.ForEach(pods, func(pod *corev1.Pod) error { return s.untrack(ctx, pod) }) {
		if err == nil || apierrors.IsNotFound(err) {
			withFinalizer.Delete(pods[i].UID)
			continue
		}
		s.memory.untrackedSeen(reconcile.KeyOf(s.job), pods[i].UID) // it will not be seen
		if firstErr == nil {
			firstErr = err
		}
	}
	return firstErr
}

// untrack removes the finalizer from a pod.
func (c *controller) untrack(ctx context.Context, pod *corev1.Pod) error {
	return untrack(ctx, c.control, pod)
}

func untrack(ctx context.Context, control *podcontrol.Control, pod *corev1.Pod) error {
	if !tracked(pod) {
		return nil
	}
	patch, err := owner.ReleasePatch(pod.UID, nil, batchv1.JobTrackingFinalizer)
	if err != nil {
		return err
	}
	if err := control.Patch(ctx, pod, patch); err != nil {
		return fmt.Errorf("remove the tracking finalizer of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// finish writes the last condition, unless pods are still to end or to be counted.
func (s *state) finish() bool {
	uncounted := s.job.Status.UncountedTerminatedPods
	if s.ending == nil || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 || s.terminating > 0 {
		return false
	}
	s.setCondition(s.lastCondition(), corev1.ConditionTrue, s.ending.Reason, s.ending.Message)
	if s.lastCondition() == batchv1.JobComplete {
		s.job.Status.CompletionTime = &metav1.Time{Time: s.now}
		if start := s.job.Status.StartTime; s.job.Status.CompletionTime.Before(start) { // the clock was set back; the API takes no such end
			s.job.Status.CompletionTime = start
		}
	}
	return true
}

func (s *state) lastCondition() batchv1.JobConditionType {
	if s.ending.Type == batchv1.JobFailureTarget {
		return batchv1.JobFailed
	}
	return batchv1.JobComplete
}

// tellEnd records events about the end of the Job.
func (s *state) tellEnd() {
	if s.lastCondition() == batchv1.JobFailed {
		s.events.Event(s.job, corev1.EventTypeWarning, s.ending.Reason, s.ending.Message)
		return
	}
	if want := s.job.Spec.Completions; want != nil && s.job.Status.Succeeded > *want {
		s.events.Event(s.job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	s.events.Event(s.job, corev1.EventTypeNormal, "Completed", "Job completed")
}
