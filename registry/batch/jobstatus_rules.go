// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rule"
)

func has(job *batchv1.Job, kind batchv1.JobConditionType, status corev1.ConditionStatus) bool {
	for _, c := range job.Status.Conditions {
		if c.Type == kind && c.Status == status {
			return true
		}
	}
	return false
}

func is(job *batchv1.Job, kind batchv1.JobConditionType) bool {
	return has(job, kind, corev1.ConditionTrue)
}

func finished(job *batchv1.Job) bool {
	return is(job, batchv1.JobComplete) || is(job, batchv1.JobFailed)
}

// validateJobStatusUpdate refuses what no controller of Jobs may write (KEP-4368): somebody else's may be at work. A
// status that is wrong already may stay so, as nothing but a change is judged, and as a change of the spec may make it
// wrong until the controller has seen it.
func validateJobStatusUpdate(job, old *batchv1.Job) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&job.ObjectMeta)
	errs = append(errs, validateCounts(&job.Status)...)
	errs = append(errs, validateUncounted(field.NewPath("status", "uncountedTerminatedPods"), job.Status.UncountedTerminatedPods)...)
	errs = append(errs, validateEnd(job, old)...)
	errs = append(errs, validateTimes(job, old)...)
	errs = append(errs, validateIndexLists(job, old)...)
	return append(errs, validateNoWayBack(job, old)...)
}

func validateCounts(s *batchv1.JobStatus) field.ErrorList {
	path := field.NewPath("status")
	errs := rule.NonNegative(path.Child("active"), s.Active)
	errs = append(errs, rule.NonNegative(path.Child("succeeded"), s.Succeeded)...)
	errs = append(errs, rule.NonNegative(path.Child("failed"), s.Failed)...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("ready"), s.Ready)...)
	return append(errs, rule.NonNegativeIfSet(path.Child("terminating"), s.Terminating)...)
}

func validateUncounted(path *field.Path, u *batchv1.UncountedTerminatedPods) field.ErrorList {
	if u == nil {
		return nil
	}
	var errs field.ErrorList
	seen := sets.New[types.UID]()
	check := func(path *field.Path, uids []types.UID) {
		for i, uid := range uids {
			errs = append(errs, rule.If(uid == "", field.Invalid(path.Index(i), uid, "must not be empty"))...)
			errs = append(errs, rule.If(uid != "" && seen.Has(uid), field.Duplicate(path.Index(i), uid))...)
			seen.Insert(uid)
		}
	}
	check(path.Child("succeeded"), u.Succeeded)
	check(path.Child("failed"), u.Failed)
	return errs
}

// validateEnd says what must be true of a Job that has ended.
func validateEnd(job, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	path, s, was := field.NewPath("status"), &job.Status, &old.Status
	conditions := path.Child("conditions")
	wrong := func(condition bool, message string) {
		errs = append(errs, rule.If(condition, field.Invalid(conditions, field.OmitValueType{}, message))...)
	}
	changed := func(kind batchv1.JobConditionType) bool { return is(job, kind) != is(old, kind) }
	completed, failed := changed(batchv1.JobComplete), changed(batchv1.JobFailed)
	ended := finished(job) != finished(old)

	wrong((completed || failed) && is(job, batchv1.JobComplete) && is(job, batchv1.JobFailed), "cannot set Complete=True and Failed=true conditions")
	wrong((completed || changed(batchv1.JobFailureTarget)) && is(job, batchv1.JobComplete) && is(job, batchv1.JobFailureTarget),
		"cannot set Complete=True and FailureTarget=true conditions")
	wrong((failed || !ptr.Equal(s.FailedIndexes, was.FailedIndexes)) && is(job, batchv1.JobFailed) && !is(job, batchv1.JobFailureTarget),
		"cannot set Failed=True condition without the FailureTarget=true condition")
	wrong((completed || changed(batchv1.JobSuccessCriteriaMet)) && is(job, batchv1.JobComplete) && !is(job, batchv1.JobSuccessCriteriaMet),
		"cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	wrong(is(job, batchv1.JobSuccessCriteriaMet) && is(job, batchv1.JobFailed), "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	wrong(is(job, batchv1.JobSuccessCriteriaMet) && is(job, batchv1.JobFailureTarget), "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	wrong(job.Spec.SuccessPolicy != nil && !is(job, batchv1.JobSuccessCriteriaMet) && is(job, batchv1.JobComplete),
		"cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")

	if finished(job) {
		errs = append(errs, rule.If((ended || s.Active != was.Active) && s.Active > 0,
			field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))...)
		errs = append(errs, rule.If((ended || !ptr.Equal(s.Terminating, was.Terminating)) && ptr.Deref(s.Terminating, 0) > 0,
			field.Invalid(path.Child("terminating"), s.Terminating, "terminating>0 is invalid for finished job"))...)
		u := s.UncountedTerminatedPods
		errs = append(errs, rule.If((ended || !equality.Semantic.DeepEqual(u, was.UncountedTerminatedPods)) && u != nil && len(u.Failed)+len(u.Succeeded) > 0,
			field.Invalid(path.Child("uncountedTerminatedPods"), u, "must be empty for finished job"))...)
	}
	ready := s.Ready != nil && *s.Ready > s.Active && (!ptr.Equal(s.Ready, was.Ready) || s.Active != was.Active)
	return append(errs, rule.If(ready, field.Invalid(path.Child("ready"), ptr.Deref(s.Ready, 0), "cannot set more ready pods than active"))...)
}

func validateTimes(job, old *batchv1.Job) field.ErrorList {
	path, s, was := field.NewPath("status"), &job.Status, &old.Status
	start, end := path.Child("startTime"), path.Child("completionTime")
	started, ended := !ptr.Equal(s.StartTime, was.StartTime), !ptr.Equal(s.CompletionTime, was.CompletionTime)
	completed := is(job, batchv1.JobComplete) != is(old, batchv1.JobComplete)
	neverToRun := ptr.Deref(job.Spec.Suspend, false) && job.Spec.Completions != nil && *job.Spec.Completions == 0
	resuming := is(old, batchv1.JobSuspended) && has(job, batchv1.JobSuspended, corev1.ConditionFalse)

	var errs field.ErrorList
	errs = append(errs, rule.If((completed || ended) && s.CompletionTime != nil && !is(job, batchv1.JobComplete),
		field.Invalid(end, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))...)
	errs = append(errs, rule.If((completed || ended) && s.CompletionTime == nil && is(job, batchv1.JobComplete),
		field.Required(end, "completionTime is required for Complete jobs"))...)
	errs = append(errs, rule.If((started || ended) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime),
		field.Invalid(end, s.CompletionTime, "must be equal to or after `startTime`"))...)
	errs = append(errs, rule.If((finished(job) != finished(old) || started) && !neverToRun && s.StartTime == nil && finished(job),
		field.Required(start, "startTime is required for finished job"))...)
	errs = append(errs, rule.If(ended && s.CompletionTime != nil && was.CompletionTime != nil,
		field.Invalid(end, s.CompletionTime, "field is immutable"))...)
	return append(errs, rule.If(started && !resuming && was.StartTime != nil && !ptr.Deref(job.Spec.Suspend, false),
		field.Invalid(start, s.StartTime, "field is immutable for unsuspended job once set"))...)
}

func validateIndexLists(job, old *batchv1.Job) field.ErrorList {
	path, s, was := field.NewPath("status"), &job.Status, &old.Status
	completed, failed := path.Child("completedIndexes"), path.Child("failedIndexes")
	completedChanged, failedChanged := s.CompletedIndexes != was.CompletedIndexes, !ptr.Equal(s.FailedIndexes, was.FailedIndexes)
	var errs field.ErrorList
	if completions := job.Spec.Completions; completions != nil {
		if _, err := parseIndexes(s.CompletedIndexes, *completions); completedChanged && err != nil {
			errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "error parsing completedIndexes: "+err.Error()))
		}
		if f := s.FailedIndexes; f != nil {
			if _, err := parseIndexes(*f, *completions); failedChanged && job.Spec.BackoffLimitPerIndex != nil && err != nil {
				errs = append(errs, field.Invalid(failed, f, "error parsing failedIndexes: "+err.Error()))
			}
			index, found := overlap(parseWhatCan(s.CompletedIndexes, *completions), parseWhatCan(*f, *completions))
			errs = append(errs, rule.If((completedChanged || failedChanged) && found,
				field.Invalid(failed, *f, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index)))...)
		}
	}
	errs = append(errs, rule.If(completedChanged && s.CompletedIndexes != "" && !indexed(&job.Spec),
		field.Invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))...)
	return append(errs, rule.If(failedChanged && s.FailedIndexes != nil && job.Spec.BackoffLimitPerIndex == nil,
		field.Invalid(failed, ptr.Deref(s.FailedIndexes, ""), "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))...)
}

// validateNoWayBack says that an end is an end, and that counts only grow.
func validateNoWayBack(job, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	path, s, was := field.NewPath("status"), &job.Status, &old.Status
	conditions := path.Child("conditions")
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		errs = append(errs, rule.If(is(old, kind) && !is(job, kind),
			field.Invalid(conditions, field.OmitValueType{}, fmt.Sprintf("cannot disable the terminal %s=True condition", kind)))...)
	}
	errs = append(errs, rule.If(s.Failed < was.Failed, field.Invalid(path.Child("failed"), s.Failed, "cannot decrease the failed counter"))...)
	// An Indexed Job whose completions follow its parallelism may shrink.
	shrinks := indexed(&job.Spec) && ptr.Equal(job.Spec.Completions, job.Spec.Parallelism)
	errs = append(errs, rule.If(!shrinks && s.Succeeded < was.Succeeded,
		field.Invalid(path.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))...)
	errs = append(errs, rule.If(is(old, batchv1.JobSuccessCriteriaMet) && !is(job, batchv1.JobSuccessCriteriaMet),
		field.Invalid(conditions, field.OmitValueType{}, "cannot disable the SuccessCriteriaMet=True condition"))...)
	return append(errs, rule.If(is(old, batchv1.JobComplete) && !is(old, batchv1.JobSuccessCriteriaMet) && is(job, batchv1.JobSuccessCriteriaMet),
		field.Invalid(conditions, field.OmitValueType{}, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"))...)
}
