// SPDX-License-Identifier: Apache-2.0

package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// podFailed tells whether the pod has failed, for this Job. A pod that is being deleted counts as failed at once, unless
// the Job replaces only what has ended: a pod that lost its node may never reach the phase Failed.
func podFailed(pod *corev1.Pod, job *batchv1.Job) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !replacesOnlyEnded(job) && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

func replacesOnlyEnded(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.PodReplacementPolicy, "") == batchv1.Failed
}

// verdict is what spec.podFailurePolicy says about a failed pod.
type verdict struct {
	action  batchv1.PodFailurePolicyAction // "" if no rule matches
	failJob string                         // why the Job fails as a whole; "" if it does not
}

// counts tells whether the failure counts against the backoff limits.
func (v verdict) counts() bool { return v.action != batchv1.PodFailurePolicyActionIgnore }

// judge returns the verdict of the first rule that matches.
func judge(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) verdict {
	if policy == nil {
		return verdict{}
	}
	for i, rule := range policy.Rules {
		why, ok := match(&rule, pod)
		if !ok {
			continue
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionFailJob:
			return verdict{rule.Action, fmt.Sprintf("%s matching %v rule at index %d", why, rule.Action, i)}
		case batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionCount:
			return verdict{action: rule.Action}
		}
	}
	return verdict{}
}

// match tells whether a rule applies to a failed pod, and because of what.
func match(rule *batchv1.PodFailurePolicyRule, pod *corev1.Pod) (why string, ok bool) {
	if rule.OnExitCodes != nil {
		for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
			if exitMatches(rule.OnExitCodes, &s) {
				return fmt.Sprintf("Container %s for pod %s/%s failed with exit code %d", s.Name, pod.Namespace, pod.Name, s.State.Terminated.ExitCode), true
			}
		}
		return "", false
	}
	for _, c := range pod.Status.Conditions {
		for _, pattern := range rule.OnPodConditions {
			if c.Type == pattern.Type && c.Status == pattern.Status {
				return fmt.Sprintf("Pod %s/%s has condition %v", pod.Namespace, pod.Name, c.Type), true
			}
		}
	}
	return "", false
}

func exitMatches(on *batchv1.PodFailurePolicyOnExitCodesRequirement, s *corev1.ContainerStatus) bool {
	if s.State.Terminated == nil || s.State.Terminated.ExitCode == 0 || ptr.Deref(on.ContainerName, s.Name) != s.Name {
		return false
	}
	listed := slices.Contains(on.Values, s.State.Terminated.ExitCode)
	switch on.Operator {
	case batchv1.PodFailurePolicyOnExitCodesOpIn:
		return listed
	case batchv1.PodFailurePolicyOnExitCodesOpNotIn:
		return !listed
	}
	return false
}

// succeedsEarly tells whether the indexes that have succeeded are enough by spec.successPolicy, and by which rule.
func succeedsEarly(policy *batchv1.SuccessPolicy, completions int, succeeded indexes) (why string, ok bool) {
	if policy == nil || len(succeeded) == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		if enough(&rule, completions, succeeded) {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}

func enough(rule *batchv1.SuccessPolicyRule, completions int, succeeded indexes) bool {
	if rule.SucceededIndexes == nil {
		return rule.SucceededCount != nil && succeeded.total() >= int(*rule.SucceededCount)
	}
	required := parseIndexes(*rule.SucceededIndexes, completions)
	if len(required) == 0 {
		return false
	}
	got := required.overlap(succeeded)
	return got == required.total() || rule.SucceededCount != nil && got >= int(*rule.SucceededCount)
}

// indexFailed tells whether the failed pod is the end of its index.
func indexFailed(job *batchv1.Job, pod *corev1.Pod) bool {
	if !podFailed(pod, job) {
		return false
	}
	v := judge(job.Spec.PodFailurePolicy, pod)
	if v.action == batchv1.PodFailurePolicyActionFailIndex {
		return true
	}
	return v.counts() && countedFailures(pod) >= int(*job.Spec.BackoffLimitPerIndex)
}

// failureCounts are those that the replacement of a pod starts with; replaced is nil if it replaces none.
func failureCounts(job *batchv1.Job, replaced *corev1.Pod) (counted, ignored int) {
	if replaced == nil {
		return 0, 0
	}
	counted, ignored = countedFailures(replaced), ignoredFailures(replaced)
	if judge(job.Spec.PodFailurePolicy, replaced).counts() {
		return counted + 1, ignored
	}
	return counted, ignored + 1
}
