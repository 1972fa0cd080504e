// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	_ "time/tzdata" // time zones of CronJobs on machines without the database

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rule"
)

// maxCronJobName leaves room in the name of a Job, which is a label, for the minute at which it starts.
const maxCronJobName = 52

func defaultCronJob(c *batchv1.CronJob) {
	if c.Spec.ConcurrencyPolicy == "" {
		c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	setDefault(&c.Spec.Suspend, false)
	setDefault(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	setDefault(&c.Spec.FailedJobsHistoryLimit, 1)
	defaultJobSpec(&c.Spec.JobTemplate.Spec)
}

func prepareCronJobCreate(c *batchv1.CronJob) { dropDisabledJobFields(&c.Spec.JobTemplate.Spec, nil) }

func prepareCronJobUpdate(c, old *batchv1.CronJob) {
	dropDisabledJobFields(&c.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	errs := rule.ObjectMeta(&c.ObjectMeta, true, apivalidation.NameIsDNSSubdomain)
	errs = append(errs, validateCronJobSpec(&c.Spec, nil, podspec.OptionsForTemplate(nil))...)
	return append(errs, rule.If(len(c.Name) > maxCronJobName,
		field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))...)
}

func validateCronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	errs := rule.ObjectMetaUpdate(&c.ObjectMeta)
	return append(errs, validateCronJobSpec(&c.Spec, &old.Spec, podspec.OptionsForTemplate(&old.Spec.JobTemplate.Spec.Template))...)
}

func validateCronJobSpec(spec, old *batchv1.CronJobSpec, o podspec.Options) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSchedule(path.Child("schedule"), spec, old != nil && strings.Contains(old.Schedule, "TZ"))
	errs = append(errs, rule.NonNegativeIfSet(path.Child("startingDeadlineSeconds"), spec.StartingDeadlineSeconds)...)
	if spec.TimeZone != nil && (old == nil || !ptr.Equal(old.TimeZone, spec.TimeZone)) {
		errs = append(errs, validateTimeZone(path.Child("timeZone"), *spec.TimeZone)...)
	}
	errs = append(errs, rule.OneOf(path.Child("concurrencyPolicy"), spec.ConcurrencyPolicy,
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	template, job := path.Child("jobTemplate", "spec"), &spec.JobTemplate.Spec
	errs = append(errs, validateJobSpec(template, job, o)...)
	errs = append(errs, rule.If(job.Selector != nil, field.Invalid(template.Child("selector"), job.Selector, "`selector` will be auto-generated"))...)
	errs = append(errs, rule.If(ptr.Deref(job.ManualSelector, false),
		field.NotSupported(template.Child("manualSelector"), job.ManualSelector, []string{"nil", "false"}))...)
	errs = append(errs, rule.NonNegativeIfSet(path.Child("successfulJobsHistoryLimit"), spec.SuccessfulJobsHistoryLimit)...)
	return append(errs, rule.NonNegativeIfSet(path.Child("failedJobsHistoryLimit"), spec.FailedJobsHistoryLimit)...)
}

// validateSchedule lets a time zone stand in the schedule only of those who have one there.
func validateSchedule(path *field.Path, spec *batchv1.CronJobSpec, zoned bool) field.ErrorList {
	if spec.Schedule == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if err := parseSchedule(spec.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, spec.Schedule, err.Error()))
	}
	if !strings.Contains(spec.Schedule, "TZ") {
		return errs
	}
	switch {
	case !zoned:
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case spec.TimeZone != nil:
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// parseSchedule tells what is wrong with a schedule. The parser panics at some (robfig/cron issue 554).
func parseSchedule(schedule string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	_, err = cron.ParseStandard(schedule)
	return err
}

// zonePart is a part of a time zone's name: https://data.iana.org/time-zones/theory.html#naming, with the digits and
// the plus of older names.
var zonePart = regexp.MustCompile(`^[A-Za-z.\-_0-9+]{1,14}$`)

func validateTimeZone(path *field.Path, zone string) field.ErrorList {
	if zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+zone)}
		}
	}
	errs := rule.If(strings.EqualFold(zone, "Local"),
		field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	if _, err := time.LoadLocation(zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}

func cronJobWarnings(c, old *batchv1.CronJob) []string {
	template := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return append(longNameWarning(c.Name), jobSpecWarnings(template, &c.Spec.JobTemplate.Spec)...)
	}
	var out []string
	if c.Generation != old.Generation {
		out = jobSpecWarnings(template, &c.Spec.JobTemplate.Spec)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		out = append(out, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, "+
			"see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return out
}
