// SPDX-License-Identifier: Apache-2.0

// Package cronjob creates Jobs at the times that CronJobs say.
//
// Only the last time that is due counts: Jobs for those that were missed before are not made up for. A Job is named after
// its time, in minutes, so no time gets two. Jobs that have ended are deleted, down to the limits of the history.
// Reference: https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/
package cronjob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	_ "time/tzdata" // spec.timeZone works on hosts that have no time zones of their own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "cronjob-controller"
	Component = "cronjob-controller"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

type controller struct {
	client   kubernetes.Interface
	events   record.EventRecorder
	cronJobs batchlisters.CronJobLister
	jobs     cache.Indexer
	metrics  *metrics.CronJob
}

// New returns the controller of CronJobs.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.CronJob) (reconcile.Controller, error) {
	cronJobs, jobs := factory.Batch().V1().CronJobs(), factory.Batch().V1().Jobs().Informer()
	if err := owner.Index(jobs); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{client: client, events: events, cronJobs: cronJobs.Lister(), jobs: jobs.GetIndexer(), metrics: measured}
	return reconcile.Controller{
		Name:      "cronjob",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(cronJobs.Informer(), c.cronJobChanged),
			reconcile.OnOwned[*batchv1.Job](jobs, kind),
		},
	}, nil
}

// cronJobChanged queues a CronJob. A new schedule is for times to come: it must not make a time of the past due.
func (c *controller) cronJobChanged(q reconcile.Queue, old, new *batchv1.CronJob) {
	switch {
	case new == nil:
	case old == nil || old.Spec.Schedule == new.Spec.Schedule && ptr.Equal(old.Spec.TimeZone, new.Spec.TimeZone):
		q.Add(reconcile.KeyOf(new))
	default:
		schedule, err := parse(new)
		if err != nil {
			c.events.Eventf(new, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", new.Spec.Schedule)
			return
		}
		q.AddAfter(reconcile.KeyOf(new), wait(new, schedule, time.Now()))
	}
}

// Reconcile creates the Job that is due, forgets those that have ended, and asks to be called for the next.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	cached, err := c.cronJobs.CronJobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	jobs, err := owner.Owned[*batchv1.Job](c.jobs, cached.UID)
	if err != nil {
		return reconcile.Result{}, err
	}
	t := &tick{controller: c, CronJob: cached.DeepCopy(), written: cached.Status, now: time.Now()}
	err = t.updateActive(ctx, jobs)
	// What is known of Jobs that have ended is written before they are deleted: it would be lost with them.
	if err := errors.Join(err, t.write(ctx)); err != nil {
		return reconcile.Result{}, err
	}
	t.cleanUp(ctx, jobs)
	result, err := t.run(ctx)
	if err := t.write(ctx); err != nil {
		return reconcile.Result{}, err
	}
	return result, err
}

// tick is one look at one CronJob.
type tick struct {
	*controller
	*batchv1.CronJob // our copy, whose status is what is to be written
	written          batchv1.CronJobStatus
	now              time.Time
}

// write writes the status if it has changed.
func (t *tick) write(ctx context.Context) error {
	if apiequality.Semantic.DeepEqual(t.written, t.Status) {
		return nil
	}
	updated, err := t.client.BatchV1().CronJobs(t.Namespace).UpdateStatus(ctx, t.CronJob, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status of CronJob: %w", err)
	}
	t.CronJob, t.written = updated, *updated.Status.DeepCopy()
	return nil
}

func (t *tick) warn(reason, format string, args ...any) {
	t.events.Eventf(t.CronJob, corev1.EventTypeWarning, reason, format, args...)
}

func (t *tick) tell(reason, format string, args ...any) {
	t.events.Eventf(t.CronJob, corev1.EventTypeNormal, reason, format, args...)
}

func (t *tick) run(ctx context.Context) (reconcile.Result, error) {
	schedule := t.schedule()
	if t.DeletionTimestamp != nil || schedule == nil {
		return reconcile.Result{}, nil
	}
	d, err := dueAt(t.CronJob, schedule, oldestStart(t.CronJob, t.now), t.now)
	if err != nil {
		t.warn("InvalidSchedule", "invalid schedule: %s : %s", t.Spec.Schedule, err)
		return reconcile.Result{}, nil
	}
	if d.missed > tooMany {
		t.warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if !d.last.IsZero() && t.mayStart(d.last) {
		if err := t.start(ctx, d.last); err != nil {
			return reconcile.Result{}, err
		}
	}
	return reconcile.Result{RequeueAfter: wait(t.CronJob, schedule, t.now)}, nil
}

// schedule returns nil if nothing is to be started, ever or for now. An update queues the CronJob again.
func (t *tick) schedule() cron.Schedule {
	if t.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*t.Spec.TimeZone); err != nil {
			t.warn("UnknownTimeZone", "invalid timeZone: %q: %s", *t.Spec.TimeZone, err)
			return nil
		}
	}
	if t.DeletionTimestamp != nil || ptr.Deref(t.Spec.Suspend, false) {
		return nil
	}
	if namesTimeZone(t.CronJob) {
		t.warn("UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", t.Spec.Schedule)
	}
	schedule, err := parse(t.CronJob)
	if err != nil {
		t.warn("UnparseableSchedule", "unparseable schedule: %q : %s", t.Spec.Schedule, err)
		return nil
	}
	return schedule
}

// mayStart tells whether a Job for that time is to be started now.
func (t *tick) mayStart(at time.Time) bool {
	if at.Before(oldestStart(t.CronJob, t.now)) {
		t.warn("MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return false
	}
	if t.Status.LastScheduleTime.Equal(&metav1.Time{Time: at}) || slices.ContainsFunc(t.Status.Active, func(ref corev1.ObjectReference) bool { return ref.Name == jobName(t.CronJob, at) }) {
		return false // it was
	}
	if t.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(t.Status.Active) > 0 {
		t.tell("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return false
	}
	return true
}

// start creates the Job for that time, in place of those that run if the CronJob says so.
func (t *tick) start(ctx context.Context, at time.Time) error {
	if t.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		for _, ref := range slices.Clone(t.Status.Active) {
			job, err := t.client.BatchV1().Jobs(t.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			if err != nil {
				t.warn("FailedGet", "Get job: %v", err)
				return err
			}
			if err := t.delete(ctx, job); err != nil {
				return fmt.Errorf("replace job %s: %w", job.Name, err)
			}
		}
	}
	job, err := newJob(t.CronJob, at)
	if err != nil {
		return err
	}
	created, err := t.client.BatchV1().Jobs(t.Namespace).Create(ctx, job, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		created, err = t.client.BatchV1().Jobs(t.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if err != nil || !metav1.IsControlledBy(created, t.CronJob) {
			return err
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		t.warn("FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job: %w", err)
	default:
		t.metrics.Skew.Observe(created.CreationTimestamp.Sub(at).Seconds())
		t.tell("SuccessfulCreate", "Created job %v", created.Name)
	}
	if !t.active(created.UID) {
		t.Status.Active = append(t.Status.Active, referenceTo(created))
	}
	t.Status.LastScheduleTime = &metav1.Time{Time: at}
	return nil
}

// updateActive keeps the list of active Jobs right, and the times of the last Job and of the last success.
func (t *tick) updateActive(ctx context.Context, jobs []*batchv1.Job) error {
	known := map[types.UID]bool{}
	for _, job := range jobs {
		known[job.UID] = true
		condition := finished(job)
		switch active := t.active(job.UID); {
		case condition == "" && !active:
			if err := t.unexpected(ctx, job); err != nil {
				return err
			}
		case condition != "" && active:
			t.forget(job.UID)
			t.tell("SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, condition)
		}
		if condition != "" {
			t.noteStart(job)
		}
		if at := job.Status.CompletionTime; condition == batchv1.JobComplete && at != nil &&
			(t.Status.LastSuccessfulTime == nil || at.After(t.Status.LastSuccessfulTime.Time)) {
			t.Status.LastSuccessfulTime = at.DeepCopy()
		}
	}
	for _, ref := range slices.Clone(t.Status.Active) {
		if known[ref.UID] {
			continue
		}
		_, err := t.client.BatchV1().Jobs(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			t.tell("MissingJob", "Active job went missing: %v", ref.Name)
			t.forget(ref.UID)
		case err != nil:
			return err
		}
	}
	return nil
}

// noteStart notes the time of a Job that has ended, if that was not done when it was started: the process may have ended
// just then, and a Job that is cleaned up would run again.
func (t *tick) noteStart(job *batchv1.Job) {
	at, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	if err == nil && (t.Status.LastScheduleTime == nil || at.After(t.Status.LastScheduleTime.Time)) {
		t.Status.LastScheduleTime = &metav1.Time{Time: at}
	}
}

// unexpected looks at a Job that runs and is not in the list. If the list is right on the API server, the cache is behind.
func (t *tick) unexpected(ctx context.Context, job *batchv1.Job) error {
	live, err := t.client.BatchV1().CronJobs(t.Namespace).Get(ctx, t.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(live.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID }) {
		return reconcile.ErrStale
	}
	t.warn("UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
	return nil
}

func (t *tick) active(uid types.UID) bool {
	return slices.ContainsFunc(t.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

func (t *tick) forget(uid types.UID) {
	t.Status.Active = slices.DeleteFunc(t.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// cleanUp deletes the oldest Jobs that have ended. What does not work is tried again the next time.
func (t *tick) cleanUp(ctx context.Context, jobs []*batchv1.Job) {
	for condition, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: t.Spec.SuccessfulJobsHistoryLimit,
		batchv1.JobFailed:   t.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		for _, job := range oldest(jobs, condition, int(*limit)) {
			_ = t.delete(ctx, job) // an event tells of it
		}
	}
}

// oldest returns the Jobs with the condition, the oldest first, but for the last few.
func oldest(jobs []*batchv1.Job, condition batchv1.JobConditionType, keep int) []*batchv1.Job {
	var ended []*batchv1.Job
	for _, job := range jobs {
		if finished(job) == condition {
			ended = append(ended, job)
		}
	}
	slices.SortFunc(ended, func(a, b *batchv1.Job) int {
		startA, startB := a.Status.StartTime, b.Status.StartTime
		switch {
		case startA == nil && startB != nil:
			return 1
		case startA != nil && startB == nil:
			return -1
		case startA.Equal(startB):
			return cmp.Compare(a.Name, b.Name)
		}
		return startA.Compare(startB.Time)
	})
	return ended[:max(0, len(ended)-keep)]
}

func (t *tick) delete(ctx context.Context, job *batchv1.Job) error {
	background := metav1.DeletePropagationBackground
	err := t.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil && !apierrors.IsNotFound(err) {
		t.warn("FailedDelete", "Deleted job: %v", err)
		return err
	}
	t.forget(job.UID)
	if err != nil {
		return nil // somebody else did it
	}
	t.tell("SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}

// finished returns how the Job has ended: Complete, Failed, or "" if it has not.
func finished(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// jobName is the name of the Job for that time.
func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

// newJob makes the Job for that time.
func newJob(cj *batchv1.CronJob, at time.Time) (*batchv1.Job, error) {
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
	if err != nil {
		return nil, err
	}
	template := &cj.Spec.JobTemplate
	annotations := map[string]string{}
	maps.Copy(annotations, template.Annotations)
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       cj.Namespace,
			Name:            jobName(cj, at),
			Labels:          maps.Clone(template.Labels),
			Annotations:     annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: *template.Spec.DeepCopy(),
	}, nil
}

func referenceTo(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job",
		Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}
