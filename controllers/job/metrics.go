// SPDX-License-Identifier: Apache-2.0

package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// What a look at a Job does, for the metrics.
const (
	waits   = "reconciling" // for pods that it has made or deleted
	tracks  = "tracking"
	creates = "pods_created"
	deletes = "pods_deleted"
)

const (
	succeeded = "succeeded"
	failed    = "failed"
)

func mode(job *batchv1.Job) string {
	return string(ptr.Deref(job.Spec.CompletionMode, batchv1.NonIndexedCompletion))
}

func (s *state) countSync(start time.Time, err error) {
	result := "success"
	if err != nil {
		result = "error"
	}
	s.metrics.Syncs.WithLabelValues(mode(s.job), result, s.action).Inc()
	s.metrics.SyncDuration.WithLabelValues(mode(s.job), result, s.action).Observe(time.Since(start).Seconds())
}

// countTracked counts pods that have ended and have the finalizer, as they come and go.
func (c *controller) countTracked(old, new *corev1.Pod) {
	is := func(pod *corev1.Pod) bool { return pod != nil && podcontrol.Terminal(pod) && tracked(pod) }
	switch was, now := is(old), is(new); {
	case now && !was:
		c.metrics.TrackedTerminated.WithLabelValues("add").Inc()
	case was && !now:
		c.metrics.TrackedTerminated.WithLabelValues("delete").Inc()
	}
}

// countEndedPods counts what a write of the status has added to the counters.
func (s *state) countEndedPods(before *batchv1.JobStatus) {
	after := &s.job.Status
	n := int(after.Succeeded - before.Succeeded)
	if indexed(s.job) {
		total := func(text string) int { return parseIndexes(text, int(*s.job.Spec.Completions)).total() }
		limit := "global"
		if s.job.Spec.BackoffLimitPerIndex != nil {
			limit = "perIndex"
		}
		n = total(after.CompletedIndexes) - total(before.CompletedIndexes)
		s.metrics.IndexesFinished.WithLabelValues(succeeded, limit).Add(float64(max(0, n)))
		more := total(ptr.Deref(after.FailedIndexes, "")) - total(ptr.Deref(before.FailedIndexes, ""))
		s.metrics.IndexesFinished.WithLabelValues(failed, limit).Add(float64(max(0, more)))
	}
	s.metrics.PodsFinished.WithLabelValues(mode(s.job), succeeded).Add(float64(max(0, n)))
	s.metrics.PodsFinished.WithLabelValues(mode(s.job), failed).Add(float64(max(0, after.Failed-before.Failed)))
	for action, n := range s.judged {
		s.metrics.PolicyActions.WithLabelValues(string(action)).Add(float64(n))
	}
	s.judged = nil
}

// countCreated counts pods that were made, and those that could not be.
func (s *state) countCreated(made, missed int) {
	reason := "new"
	switch {
	case replacesOnlyEnded(s.job) && s.failed > 0:
		reason = "recreate_failed"
	case s.failed > 0 || s.terminating > 0:
		reason = "recreate_terminating_or_failed"
	}
	s.metrics.PodsCreated.WithLabelValues(reason, succeeded).Add(float64(made))
	s.metrics.PodsCreated.WithLabelValues(reason, failed).Add(float64(missed))
}

func (s *state) countFinished() {
	result := succeeded
	if s.lastCondition() == batchv1.JobFailed {
		result = failed
	}
	s.metrics.Finished.WithLabelValues(mode(s.job), result, s.ending.Reason).Inc()
}
