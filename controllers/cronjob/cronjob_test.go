// SPDX-License-Identifier: Apache-2.0

package cronjob

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t
}

func newCronJob(schedule string, created time.Time) *batchv1.CronJob {
	return &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "report", Namespace: "default", CreationTimestamp: metav1.Time{Time: created}},
		Spec:       batchv1.CronJobSpec{Schedule: schedule},
	}
}

func TestDueAt(t *testing.T) {
	for _, tc := range []struct {
		name         string
		schedule     string
		created, now string
		deadline     *int64
		last         string
		missed       int
		wait         time.Duration
		fails        bool
	}{
		{name: "not yet", schedule: "0 * * * *", created: "2026-11-22 10:10:00", now: "2026-11-22 10:59:00", wait: time.Minute},
		{name: "first", schedule: "0 * * * *", created: "2026-11-22 10:10:00", now: "2026-11-22 11:00:00", last: "2026-11-22 11:00:00", wait: time.Hour},
		{name: "late", schedule: "0 * * * *", created: "2026-11-22 10:10:00", now: "2026-11-22 11:59:00", last: "2026-11-22 11:00:00", wait: time.Minute},
		{name: "the last of several", schedule: "0 * * * *", created: "2026-11-22 10:10:00", now: "2026-11-22 14:30:00", last: "2026-11-22 14:00:00", missed: 4, wait: 30 * time.Minute},
		{name: "many", schedule: "* * * * *", created: "2026-11-22 10:10:00", now: "2026-11-23 10:10:30", last: "2026-11-23 10:10:00", missed: 1440, wait: 30 * time.Second},
		{name: "a deadline is as far back as it looks", schedule: "0 * * * *", created: "2026-11-22 10:10:00", now: "2026-11-22 14:30:00", deadline: ptr.To[int64](600), wait: 30 * time.Minute},
		{name: "a deadline of none", schedule: "0 * * * *", created: "2026-11-22 10:10:00", now: "2026-11-22 11:00:01", deadline: ptr.To[int64](0), wait: 59*time.Minute + 59*time.Second},
		{name: "uneven", schedule: "30 6-16/4 * * 1-5", created: "2026-11-20 07:00:00", now: "2026-11-23 11:00:00", last: "2026-11-23 10:30:00", missed: 19, wait: 3*time.Hour + 30*time.Minute},
		{name: "every", schedule: "@every 5m", created: "2026-11-22 10:10:30", now: "2026-11-22 10:26:00", last: "2026-11-22 10:25:30", missed: 3, wait: 4*time.Minute + 30*time.Second},
		{name: "a day that does not exist", schedule: "59 23 31 2 *", created: "2026-11-22 10:10:00", now: "2026-11-22 10:11:00", fails: true},
	} {
		cj := newCronJob(tc.schedule, at(tc.created))
		cj.Spec.StartingDeadlineSeconds = tc.deadline
		schedule, err := parse(cj)
		if err != nil {
			t.Fatal(err)
		}
		now := at(tc.now)
		d, err := dueAt(cj, schedule, oldestStart(cj, now), now)
		last := ""
		if !d.last.IsZero() {
			last = d.last.Format("2006-01-02 15:04:05")
		}
		if last != tc.last || d.missed != tc.missed || (err != nil) != tc.fails {
			t.Errorf("%s: due is %s, %d missed, %v; want %s, %d", tc.name, last, d.missed, err, tc.last, tc.missed)
		}
		if got := wait(cj, schedule, now) - skew; !tc.fails && got != tc.wait {
			t.Errorf("%s: wait %v, want %v", tc.name, got, tc.wait)
		}
	}
}

func TestTimeZone(t *testing.T) {
	for _, tc := range []struct {
		schedule string
		zone     *string
		want     string
	}{
		{"0 9 * * *", nil, "2026-07-01 09:00:00"},
		{"0 9 * * *", ptr.To("Europe/Berlin"), "2026-07-01 07:00:00"},
		{"0 9 * * *", ptr.To("America/New_York"), "2026-07-01 13:00:00"},
		{"TZ=Asia/Tokyo 0 9 * * *", ptr.To("Europe/Berlin"), "2026-07-01 00:00:00"},
	} {
		cj := newCronJob(tc.schedule, time.Time{})
		cj.Spec.TimeZone = tc.zone
		schedule, err := parse(cj)
		if err != nil {
			t.Fatal(err)
		}
		if got := schedule.Next(at("2026-06-30 23:59:59")).UTC(); !got.Equal(at(tc.want)) {
			t.Errorf("%s in %v: %v, want %s", tc.schedule, ptr.Deref(tc.zone, "?"), got, tc.want)
		}
	}
	for _, schedule := range []string{"TZ=0", "whenever", "* * * *", ""} {
		if _, err := parse(newCronJob(schedule, time.Time{})); err == nil {
			t.Errorf("parse(%q) works", schedule)
		}
	}
}

func TestNewJob(t *testing.T) {
	cj := newCronJob("0 9 * * *", time.Time{})
	cj.UID = "cj"
	cj.Spec.TimeZone = ptr.To("Europe/Berlin")
	cj.Spec.JobTemplate = batchv1.JobTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
		Spec:       batchv1.JobSpec{Parallelism: ptr.To[int32](2)},
	}
	job, err := newJob(cj, at("2026-07-01 07:00:00"))
	if err != nil {
		t.Fatal(err)
	}
	if job.Name != "report-29714820" || job.Labels["a"] != "b" || job.Annotations["c"] != "d" || !metav1.IsControlledBy(job, cj) ||
		job.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] != "2026-07-01T09:00:00+02:00" || *job.Spec.Parallelism != 2 {
		t.Errorf("job is %+v", job)
	}
}

// world is a cluster with a CronJob for each full minute. It starts ten seconds past one.
type world struct {
	*controllertest.Cluster
	t *testing.T
}

func run(t *testing.T, change func(*batchv1.CronJobSpec)) *world {
	t.Helper()
	time.Sleep(10 * time.Second)
	cj := newCronJob("* * * * *", time.Now())
	change(&cj.Spec)
	cluster := controllertest.New(t, cj)
	c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().CronJob)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Run(c)
	return &world{cluster, t}
}

func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// jobs returns the Jobs, the earliest first.
func (w *world) jobs() []batchv1.Job {
	w.t.Helper()
	list, err := w.BatchV1().Jobs("default").List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b batchv1.Job) int { return strings.Compare(a.Name, b.Name) })
	return list.Items
}

func (w *world) wantJobs(n int) []batchv1.Job {
	w.t.Helper()
	jobs := w.jobs()
	if len(jobs) != n {
		w.t.Fatalf("%d jobs, want %d", len(jobs), n)
	}
	return jobs
}

func (w *world) get() *batchv1.CronJob {
	w.t.Helper()
	cj, err := w.BatchV1().CronJobs("default").Get(w.t.Context(), "report", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return cj
}

func (w *world) end(job batchv1.Job, condition batchv1.JobConditionType) {
	w.t.Helper()
	now := metav1.Now()
	job.Status.StartTime = job.CreationTimestamp.DeepCopy()
	job.Status.Conditions = []batchv1.JobCondition{{Type: condition, Status: corev1.ConditionTrue}}
	if condition == batchv1.JobComplete {
		job.Status.CompletionTime = &now
	}
	if _, err := w.BatchV1().Jobs("default").UpdateStatus(w.t.Context(), &job, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) events() string {
	var events []string
	for {
		select {
		case e := <-w.Events.Events:
			events = append(events, e)
		default:
			return strings.Join(events, "\n")
		}
	}
}

func (w *world) wantEvent(want string) {
	w.t.Helper()
	if got := w.events(); !strings.Contains(got, want) {
		w.t.Errorf("events are %q, want %q", got, want)
	}
}

func TestOneJobForEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(*batchv1.CronJobSpec) {})
		w.after(49 * time.Second)
		w.wantJobs(0)
		w.after(2 * time.Second)
		job := w.wantJobs(1)[0]
		w.wantEvent("Normal SuccessfulCreate Created job " + job.Name)
		cj := w.get()
		if len(cj.Status.Active) != 1 || cj.Status.Active[0].UID != job.UID || cj.Status.LastScheduleTime.Unix()%60 != 0 {
			t.Errorf("status is %+v", cj.Status)
		}
		w.end(job, batchv1.JobComplete)
		w.wantEvent(fmt.Sprintf("Normal SawCompletedJob Saw completed job: %s, condition: Complete", job.Name))
		if cj := w.get(); len(cj.Status.Active) != 0 || cj.Status.LastSuccessfulTime == nil {
			t.Errorf("status is %+v", cj.Status)
		}
		w.after(3 * time.Minute)
		w.wantJobs(4)
		if n := len(w.get().Status.Active); n != 3 {
			t.Errorf("%d are active", n)
		}
	})
}

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent })
		w.after(3 * time.Minute)
		job := w.wantJobs(1)[0]
		w.wantEvent("Normal JobAlreadyActive Not starting job because prior execution is running")
		// The time that was skipped is still the last: with the way free, its Job starts.
		w.end(job, batchv1.JobComplete)
		w.wantJobs(2)
	})
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent })
		w.after(time.Minute)
		first := w.wantJobs(1)[0]
		w.after(time.Minute)
		second := w.wantJobs(1)[0]
		if first.Name == second.Name {
			t.Error("the job was not replaced")
		}
		w.wantEvent("Normal SuccessfulDelete Deleted job " + first.Name)
		if active := w.get().Status.Active; len(active) != 1 || active[0].Name != second.Name {
			t.Errorf("active are %v", active)
		}
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(s *batchv1.CronJobSpec) {
			s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr.To[int32](2), ptr.To[int32](1)
		})
		w.after(6 * time.Minute)
		jobs := w.wantJobs(6)
		for i, job := range jobs {
			condition := batchv1.JobComplete
			if i%2 == 1 {
				condition = batchv1.JobFailed
			}
			w.end(job, condition)
		}
		left := w.wantJobs(3)
		if left[0].Name != jobs[2].Name || left[1].Name != jobs[4].Name || left[2].Name != jobs[5].Name {
			t.Errorf("left are %s, %s, %s", left[0].Name, left[1].Name, left[2].Name)
		}
	})
}

func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
		w.after(5 * time.Minute)
		w.wantJobs(0)
		cj := w.get()
		cj.Spec.Suspend = nil
		cj.Spec.StartingDeadlineSeconds = ptr.To[int64](5)
		if _, err := w.BatchV1().CronJobs("default").Update(t.Context(), cj, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantJobs(0) // too late for the last
		w.after(time.Minute)
		w.wantJobs(1)
	})
}

// A new schedule is for times to come.
func TestNewSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(s *batchv1.CronJobSpec) { s.Schedule = "@yearly" })
		w.after(20 * time.Minute)
		cj := w.get()
		cj.Spec.Schedule = "*/10 * * * *"
		if _, err := w.BatchV1().CronJobs("default").Update(t.Context(), cj, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantJobs(0)
		w.after(10 * time.Minute)
		w.wantJobs(1)
	})
}

func TestWarnings(t *testing.T) {
	for _, tc := range []struct {
		change func(*batchv1.CronJobSpec)
		want   string
	}{
		{func(s *batchv1.CronJobSpec) { s.Schedule = "whenever" }, `Warning UnparseableSchedule unparseable schedule: "whenever" : `},
		{func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Nowhere") }, `Warning UnknownTimeZone invalid timeZone: "Nowhere": `},
		{func(s *batchv1.CronJobSpec) { s.Schedule = "TZ=UTC * * * * *" }, "Warning UnsupportedSchedule CRON_TZ or TZ used in schedule"},
		{func(s *batchv1.CronJobSpec) { s.Schedule = "59 23 31 2 *" }, "Warning InvalidSchedule invalid schedule: 59 23 31 2 * : time difference"},
	} {
		synctest.Test(t, func(t *testing.T) {
			run(t, tc.change).wantEvent(tc.want)
		})
	}
}

// What the list of active Jobs says and what there is are brought together.
func TestActiveJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, func(*batchv1.CronJobSpec) {})
		w.after(time.Minute)
		job := w.wantJobs(1)[0]
		if err := w.BatchV1().Jobs("default").Delete(t.Context(), job.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantEvent("Normal MissingJob Active job went missing: " + job.Name)
		if n := len(w.get().Status.Active); n != 0 {
			t.Errorf("%d are active", n)
		}
		w.wantJobs(0) // it is not made again
		manual := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "manual", Namespace: "default", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.get(), kind)}}}
		if _, err := w.BatchV1().Jobs("default").Create(t.Context(), manual, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.wantEvent("Warning UnexpectedJob Saw a job that the controller did not create or forgot: manual")
	})
}
