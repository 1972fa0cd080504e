// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints, in the order and the words of upstream.

func jobColumns() []rest.Column[*batchv1.Job] {
	type J = *batchv1.Job
	containers := func(o J) []corev1.Container { return o.Spec.Template.Spec.Containers }
	return []rest.Column[J]{
		rest.Name[J](),
		rest.Text("Status", "Status of the job.", jobStatusCell),
		rest.Text("Completions", rest.Doc(batchv1.JobStatus{}, "succeeded"), completionsCell),
		rest.Text("Duration", "Time required to complete the job.", durationCell),
		rest.Age[J](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
		rest.Text("Selector", rest.Doc(batchv1.JobSpec{}, "selector"), func(o J) string { return metav1.FormatLabelSelector(o.Spec.Selector) }).OnWide(),
	}
}

func jobStatusCell(o *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for _, c := range o.Status.Conditions {
			if c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case o.DeletionTimestamp != nil:
		return "Terminating"
	case is(batchv1.JobSuspended):
		return "Suspended"
	case is(batchv1.JobFailureTarget):
		return "FailureTarget"
	case is(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completionsCell(o *batchv1.Job) string {
	if o.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", o.Status.Succeeded, *o.Spec.Completions)
	}
	if n := ptr.Deref(o.Spec.Parallelism, 0); n > 1 { // a work queue: one success will do
		return fmt.Sprintf("%d/1 of %d", o.Status.Succeeded, n)
	}
	return fmt.Sprintf("%d/1", o.Status.Succeeded)
}

func durationCell(o *batchv1.Job) string {
	switch {
	case o.Status.StartTime == nil:
		return ""
	case o.Status.CompletionTime == nil:
		return duration.HumanDuration(time.Since(o.Status.StartTime.Time))
	}
	return duration.HumanDuration(o.Status.CompletionTime.Sub(o.Status.StartTime.Time))
}

func cronJobColumns() []rest.Column[*batchv1.CronJob] {
	type C = *batchv1.CronJob
	spec, status := batchv1.CronJobSpec{}, batchv1.CronJobStatus{}
	containers := func(o C) []corev1.Container { return o.Spec.JobTemplate.Spec.Template.Spec.Containers }
	suspend := rest.Text("Suspend", rest.Doc(spec, "suspend"), func(o C) string {
		if o.Spec.Suspend == nil {
			return "<unset>"
		}
		if *o.Spec.Suspend {
			return "True"
		}
		return "False"
	})
	suspend.Type = "boolean"
	return []rest.Column[C]{
		rest.Name[C](),
		rest.Text("Schedule", rest.Doc(spec, "schedule"), func(o C) string { return o.Spec.Schedule }),
		rest.Text("Timezone", rest.Doc(spec, "timeZone"), func(o C) string { return ptr.Deref(o.Spec.TimeZone, "<none>") }),
		suspend,
		rest.Number("Active", rest.Doc(status, "active"), func(o C) int { return len(o.Status.Active) }),
		rest.Text("Last Schedule", rest.Doc(status, "lastScheduleTime"), func(o C) string {
			if o.Status.LastScheduleTime == nil {
				return "<none>"
			}
			return rest.Since(*o.Status.LastScheduleTime)
		}),
		rest.Age[C](),
		rest.ContainerNames(containers).OnWide(),
		rest.ContainerImages(containers).OnWide(),
		rest.Text("Selector", rest.Doc(batchv1.JobSpec{}, "selector"), func(o C) string { return metav1.FormatLabelSelector(o.Spec.JobTemplate.Spec.Selector) }).OnWide(),
	}
}
