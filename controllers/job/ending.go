// SPDX-License-Identifier: Apache-2.0

package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// end returns the condition that says that the Job is to end, and why; nil if it goes on. What was decided
// before stays so. Of several reasons, the first in this order counts.
func (s *state) end() *batchv1.JobCondition {
	if c := conditionTrue(s.job, batchv1.JobSuccessCriteriaMet); c != nil {
		return c
	}
	if c := conditionTrue(s.job, batchv1.JobFailureTarget); c != nil {
		return c
	}
	if reason, message := s.failure(); reason != "" {
		return s.condition(batchv1.JobFailureTarget, reason, message)
	}
	if indexed(s.job) {
		if why, ok := succeedsEarly(s.job.Spec.SuccessPolicy, int(*s.job.Spec.Completions), s.succeededIndexes); ok {
			return s.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, why)
		}
	}
	return nil
}

// failure returns why the Job has failed; reason is "" if it has not.
func (s *state) failure() (reason, message string) {
	if why := s.failsByPolicy(); why != "" {
		return batchv1.JobReasonPodFailurePolicy, why
	}
	if s.failed > int(*s.job.Spec.BackoffLimit) || tooManyRestarts(s.job, s.pods) {
		return batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"
	}
	if left, ok := deadline(s.job, s.now); ok && left <= 0 {
		return batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"
	} else if ok {
		s.lookAgain(left)
	}
	if s.job.Spec.BackoffLimitPerIndex == nil || !indexed(s.job) {
		return "", ""
	}
	failed := s.failedIndexes.total()
	switch most := s.job.Spec.MaxFailedIndexes; {
	case most != nil && failed > int(*most):
		return batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"
	case failed > 0 && failed+s.succeededIndexes.total() >= int(*s.job.Spec.Completions):
		return batchv1.JobReasonFailedIndexes, "Job has failed indexes"
	}
	return "", ""
}

// failsByPolicy returns why a failed pod makes the Job fail as a whole.
func (s *state) failsByPolicy() string {
	for _, pod := range s.pods {
		if podFailed(pod, s.job) {
			if why := judge(s.job.Spec.PodFailurePolicy, pod).failJob; why != "" {
				return why
			}
		}
	}
	return ""
}

// tooManyRestarts tells whether containers that are restarted in their pods have failed too often.
func tooManyRestarts(job *batchv1.Job, pods []*corev1.Pod) bool {
	if job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range pods {
		if pod.Status.Phase != corev1.PodRunning && pod.Status.Phase != corev1.PodPending {
			continue
		}
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for _, status := range statuses {
				restarts += status.RestartCount
			}
		}
	}
	return restarts >= max(1, *job.Spec.BackoffLimit)
}

// deadline is how long the Job may still be active; ok is false if that is not limited.
func deadline(job *batchv1.Job, now time.Time) (left time.Duration, ok bool) {
	if job.Spec.ActiveDeadlineSeconds == nil || job.Status.StartTime == nil || suspended(job) {
		return 0, false
	}
	limit := time.Duration(*job.Spec.ActiveDeadlineSeconds) * time.Second
	return limit - now.Sub(job.Status.StartTime.Time), true
}

// complete tells whether the Job has got what it wanted: without spec.completions, a first success when all pods have ended.
func (s *state) complete() bool {
	if s.running > 0 {
		return false
	}
	if s.job.Spec.Completions == nil {
		return s.succeeded > 0
	}
	return s.succeeded >= int(*s.job.Spec.Completions)
}
