// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// job creates a Job of two pods.
func (c *cluster) job(name string, change func(*batchv1.JobSpec)) *batchv1.Job {
	c.t.Helper()
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: twoPods()}
	change(&job.Spec)
	job, err := c.BatchV1().Jobs("ns").Create(c.t.Context(), job, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return job
}

func twoPods() batchv1.JobSpec {
	return batchv1.JobSpec{
		Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](2),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			Containers:    []corev1.Container{{Name: "c", Image: "v1"}},
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr.To[int64](0),
		}},
	}
}

// exit lets the container of a pod end, an hour ago, so that no back-off delays what follows.
func (c *cluster) exit(pod *corev1.Pod, code int32) {
	c.t.Helper()
	pod = pod.DeepCopy()
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	at := metav1.NewTime(time.Now().Add(-time.Hour))
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "c", Image: "v1", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: at}},
	}}
	if _, err := c.CoreV1().Pods("ns").UpdateStatus(c.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// active waits for n pods that have not ended and are not to, and returns them in the order of their indexes.
func (c *cluster) active(n int) []corev1.Pod {
	c.t.Helper()
	var active []corev1.Pod
	c.eventually(fmt.Sprintf("%d active pods", n), func(ctx context.Context) error {
		pods, err := c.pods(ctx, "ns")
		if err != nil {
			return err
		}
		active = slices.DeleteFunc(pods, func(pod corev1.Pod) bool {
			return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		})
		if len(active) != n {
			return fmt.Errorf("%d", len(active))
		}
		return nil
	})
	slices.SortFunc(active, func(a, b corev1.Pod) int {
		return strings.Compare(a.Annotations[batchv1.JobCompletionIndexAnnotation], b.Annotations[batchv1.JobCompletionIndexAnnotation])
	})
	return active
}

// wantJob waits until the Job's status is right.
func (c *cluster) wantJob(name, what string, right func(*batchv1.JobStatus) bool) *batchv1.Job {
	c.t.Helper()
	var job *batchv1.Job
	c.eventually("Job "+name+" is "+what, func(ctx context.Context) error {
		var err error
		job, err = c.BatchV1().Jobs("ns").Get(ctx, name, metav1.GetOptions{})
		if err == nil && !right(&job.Status) {
			err = fmt.Errorf("status is %+v", job.Status)
		}
		return err
	})
	return job
}

func (c *cluster) wantEnd(name string, want ...string) *batchv1.Job {
	c.t.Helper()
	return c.wantJob(name, "at its end", func(s *batchv1.JobStatus) bool {
		var got []string
		for _, condition := range s.Conditions {
			if condition.Status == corev1.ConditionTrue {
				got = append(got, fmt.Sprintf("%s:%s", condition.Type, condition.Reason))
			}
		}
		return slices.Equal(got, want)
	})
}

// wantUntracked waits until no pod of the namespace has the finalizer.
func (c *cluster) wantUntracked() {
	c.t.Helper()
	c.eventually("no pod is tracked", func(ctx context.Context) error {
		pods, err := c.pods(ctx, "ns")
		for _, pod := range pods {
			if slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
				return fmt.Errorf("%s is", pod.Name)
			}
		}
		return err
	})
}

func (c *cluster) wantEvent(kind, reason, message string) {
	c.t.Helper()
	c.eventually("event "+reason, func(ctx context.Context) error {
		events, err := c.CoreV1().Events("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range events.Items {
			if e.InvolvedObject.Kind == kind && e.Reason == reason && strings.HasPrefix(e.Message, message) {
				return nil
			}
			seen = append(seen, e.InvolvedObject.Kind+" "+e.Reason+": "+e.Message)
		}
		return fmt.Errorf("events are %q", seen)
	})
}

func TestJobCompletes(t *testing.T) {
	c := newCluster(t)
	c.namespace("ns")
	c.job("sum", func(*batchv1.JobSpec) {})
	pods := c.active(2)
	if !slices.Contains(pods[0].Finalizers, batchv1.JobTrackingFinalizer) || !strings.HasPrefix(pods[0].Name, "sum-") {
		t.Errorf("pod is %+v", pods[0].ObjectMeta)
	}
	c.wantJob("sum", "active", func(s *batchv1.JobStatus) bool {
		return s.Active == 2 && s.StartTime != nil && *s.Ready == 0 && *s.Terminating == 0
	})
	c.exit(&pods[0], 0)
	c.wantJob("sum", "half done", func(s *batchv1.JobStatus) bool { return s.Active == 1 && s.Succeeded == 1 })
	c.exit(&pods[1], 1)
	c.wantJob("sum", "one failure later", func(s *batchv1.JobStatus) bool { return s.Active == 1 && s.Failed == 1 })
	c.exit(&c.active(1)[0], 0)
	job := c.wantEnd("sum", "SuccessCriteriaMet:CompletionsReached", "Complete:CompletionsReached")
	if s := job.Status; s.Succeeded != 2 || s.Failed != 1 || s.Active != 0 || s.CompletionTime == nil ||
		len(s.UncountedTerminatedPods.Succeeded)+len(s.UncountedTerminatedPods.Failed) != 0 {
		t.Errorf("status is %+v", s)
	}
	c.wantUntracked()
	c.wantEvent("Job", "Completed", "Job completed")
	c.wantEvent("Job", "SuccessfulCreate", "Created pod: sum-")
}

func TestJobFails(t *testing.T) {
	c := newCluster(t)
	c.namespace("ns")
	c.job("sum", func(s *batchv1.JobSpec) { s.BackoffLimit = ptr.To[int32](0) })
	pods := c.active(2)
	c.exit(&pods[0], 1)
	job := c.wantEnd("sum", "FailureTarget:BackoffLimitExceeded", "Failed:BackoffLimitExceeded")
	if job.Status.Failed != 2 || job.Status.CompletionTime != nil { // the pod that was stopped counts
		t.Errorf("status is %+v", job.Status)
	}
	c.wantEvent("Job", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
	c.wantUntracked()

	c.job("late", func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](1) })
	c.active(2)
	c.wantEnd("late", "FailureTarget:DeadlineExceeded", "Failed:DeadlineExceeded")
	c.active(0)
}

func TestIndexedJob(t *testing.T) {
	c := newCluster(t)
	c.namespace("ns")
	c.job("sum", func(s *batchv1.JobSpec) {
		s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		s.Completions, s.Parallelism = ptr.To[int32](4), ptr.To[int32](3)
		s.BackoffLimitPerIndex = ptr.To[int32](1)
	})
	pods := c.active(3)
	for i, pod := range pods {
		number := fmt.Sprint(i)
		if !strings.HasPrefix(pod.Name, "sum-"+number+"-") || pod.Spec.Hostname != "sum-"+number ||
			pod.Labels[batchv1.JobCompletionIndexAnnotation] != number || pod.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" {
			t.Errorf("pod %d is %+v", i, pod)
		}
	}
	c.exit(&pods[1], 1)
	replacement := c.active(3)[1]
	if replacement.Name == pods[1].Name {
		t.Fatal("the failed pod is not replaced")
	}
	if replacement.Annotations[batchv1.JobIndexFailureCountAnnotation] != "1" {
		t.Errorf("the replacement has %v", replacement.Annotations)
	}
	c.exit(&replacement, 1)
	c.wantJob("sum", "without index 1", func(s *batchv1.JobStatus) bool { return ptr.Deref(s.FailedIndexes, "") == "1" })
	for _, pod := range c.active(3) {
		c.exit(&pod, 0)
	}
	job := c.wantEnd("sum", "FailureTarget:FailedIndexes", "Failed:FailedIndexes")
	if s := job.Status; s.CompletedIndexes != "0,2,3" || *s.FailedIndexes != "1" || s.Succeeded != 3 || s.Failed != 2 {
		t.Errorf("status is %+v", s)
	}
	c.wantUntracked()

	c.job("led", func(s *batchv1.JobSpec) {
		s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0")}}}
	})
	c.exit(&c.active(2)[0], 0)
	job = c.wantEnd("led", "SuccessCriteriaMet:SuccessPolicy", "Complete:SuccessPolicy")
	if s := job.Status; s.Succeeded != 1 || s.Failed != 0 || s.CompletedIndexes != "0" {
		t.Errorf("status is %+v", s)
	}
	c.active(0)
}

func TestJobPodFailurePolicy(t *testing.T) {
	c := newCluster(t)
	c.namespace("ns")
	c.job("sum", func(s *batchv1.JobSpec) {
		rule := func(action batchv1.PodFailurePolicyAction, code int32) batchv1.PodFailurePolicyRule {
			return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
				Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}}}
		}
		s.BackoffLimit = ptr.To[int32](0)
		s.PodReplacementPolicy = ptr.To(batchv1.Failed)
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			rule(batchv1.PodFailurePolicyActionIgnore, 1), rule(batchv1.PodFailurePolicyActionFailJob, 42)}}
	})
	ignored := c.active(2)[0]
	c.exit(&ignored, 1)
	c.eventually("a replacement", func(ctx context.Context) error {
		pods, err := c.pods(ctx, "ns")
		if err == nil && len(pods) != 3 {
			err = fmt.Errorf("%d pods", len(pods))
		}
		return err
	})
	c.exit(&c.active(2)[0], 42)
	job := c.wantEnd("sum", "FailureTarget:PodFailurePolicy", "Failed:PodFailurePolicy")
	if message := job.Status.Conditions[0].Message; !strings.HasSuffix(message, "failed with exit code 42 matching FailJob rule at index 1") {
		t.Errorf("message is %q", message)
	}
	if job.Status.Failed != 2 {
		t.Errorf("%d failed, want the one that fails the Job and the one that is stopped", job.Status.Failed)
	}
}

func TestJobSuspends(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.job("sum", func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) })
	suspended := func(want corev1.ConditionStatus) func(*batchv1.JobStatus) bool {
		return func(s *batchv1.JobStatus) bool {
			return len(s.Conditions) == 1 && s.Conditions[0].Type == batchv1.JobSuspended && s.Conditions[0].Status == want &&
				(s.StartTime == nil) == (want == corev1.ConditionTrue)
		}
	}
	set := func(value bool) {
		patch := fmt.Sprintf(`{"spec":{"suspend":%t}}`, value)
		if _, err := c.BatchV1().Jobs("ns").Patch(ctx, "sum", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.wantJob("sum", "suspended", suspended(corev1.ConditionTrue))
	c.active(0)
	set(false)
	c.active(2)
	c.wantJob("sum", "resumed", suspended(corev1.ConditionFalse))
	set(true)
	c.active(0)
	job := c.wantJob("sum", "suspended again", suspended(corev1.ConditionTrue))
	if job.Status.Failed != 0 {
		t.Errorf("%d pods count as failed", job.Status.Failed)
	}
	c.wantEvent("Job", "Suspended", "Job suspended")
	c.wantEvent("Job", "Resumed", "Job resumed")
}

// Whatever becomes of a Job, its pods can be deleted.
func TestJobPodsOutliveNothing(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.job("sum", func(*batchv1.JobSpec) {})
	c.active(2)
	if err := c.BatchV1().Jobs("ns").Delete(ctx, "sum", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
		t.Fatal(err)
	}
	c.wantPods("ns", 0)

	c.job("sum", func(*batchv1.JobSpec) {})
	c.active(2)
	if err := c.BatchV1().Jobs("ns").Delete(ctx, "sum", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	c.wantPods("ns", 0)
	c.eventually("the Job is gone", func(ctx context.Context) error {
		_, err := c.BatchV1().Jobs("ns").Get(ctx, "sum", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("get = %v", err)
	})

	c.job("sum", func(*batchv1.JobSpec) {})
	c.active(2)
	if err := c.BatchV1().Jobs("ns").Delete(ctx, "sum", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}); err != nil {
		t.Fatal(err)
	}
	c.wantUntracked()
	c.active(2)
}

// A Job that another controller manages is left alone.
func TestJobLeftAlone(t *testing.T) {
	c := newCluster(t)
	c.namespace("ns")
	c.job("elsewhere", func(s *batchv1.JobSpec) { s.ManagedBy = ptr.To("example.com/other") })
	c.job("sum", func(*batchv1.JobSpec) {})
	c.active(2) // those of the second: it is looked at after the first
	job, err := c.BatchV1().Jobs("ns").Get(t.Context(), "elsewhere", metav1.GetOptions{})
	if err != nil || job.Status.StartTime != nil {
		t.Errorf("the first is %+v, %v", job.Status, err)
	}
}

// A CronJob makes a Job for the last time that is due, and the Job runs.
func TestCronJob(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	cj, err := c.BatchV1().CronJobs("ns").Create(ctx, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "report"},
		Spec: batchv1.CronJobSpec{
			Schedule: "0 0 1 1 *", TimeZone: ptr.To("Europe/Berlin"), Suspend: ptr.To(true),
			JobTemplate: batchv1.JobTemplateSpec{Spec: twoPods()},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(time.Now().AddDate(-1, 0, 0)))
	if _, err = c.BatchV1().CronJobs("ns").UpdateStatus(ctx, cj, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.BatchV1().CronJobs("ns").Patch(ctx, "report", "application/merge-patch+json", []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, pod := range c.active(2) {
		c.exit(&pod, 0)
	}
	c.eventually("the Job has run", func(ctx context.Context) error {
		cj, err := c.BatchV1().CronJobs("ns").Get(ctx, "report", metav1.GetOptions{})
		if err == nil && (cj.Status.LastSuccessfulTime == nil || len(cj.Status.Active) != 0) {
			err = fmt.Errorf("status is %+v", cj.Status)
		}
		return err
	})
	jobs, err := c.BatchV1().Jobs("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(jobs.Items) != 1 {
		t.Fatalf("%d Jobs, %v; want one", len(jobs.Items), err)
	}
	c.wantEvent("CronJob", "SuccessfulCreate", "Created job report-")
	c.wantEvent("CronJob", "SawCompletedJob", "Saw completed job: report-")
}
