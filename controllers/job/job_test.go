// SPDX-License-Identifier: Apache-2.0

package job

import (
	"slices"
	"strconv"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.Time{Time: now.Add(-d)} }

func newPod(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{},
		Finalizers: []string{batchv1.JobTrackingFinalizer}, CreationTimestamp: ago(time.Hour),
	}}
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func phase(p corev1.PodPhase) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Status.Phase = p }
}

func index(i int) func(*corev1.Pod) {
	return annotation(batchv1.JobCompletionIndexAnnotation, strconv.Itoa(i))
}

func annotation(key, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Annotations[key] = value }
}

func deleted(pod *corev1.Pod) { pod.DeletionTimestamp = &metav1.Time{Time: now} }

func exited(container string, code int32, at metav1.Time) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.Phase = corev1.PodFailed
		if code == 0 {
			pod.Status.Phase = corev1.PodSucceeded
		}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: at}},
		})
	}
}

func newJob(changes ...func(*batchv1.JobSpec)) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sum", UID: "sum"},
		Spec:       batchv1.JobSpec{Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](4), BackoffLimit: ptr.To[int32](6)},
	}
	for _, change := range changes {
		change(&job.Spec)
	}
	return job
}

func indexedMode(spec *batchv1.JobSpec) { spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func perIndex(limit int32) func(*batchv1.JobSpec) {
	return func(spec *batchv1.JobSpec) {
		indexedMode(spec)
		spec.BackoffLimitPerIndex = &limit
	}
}

func stateOf(job *batchv1.Job, pods ...*corev1.Pod) *state {
	c := &controller{memory: memory{jobs: map[types.NamespacedName]*notes{}}}
	return c.stateOf(job, pods, nil, true, now)
}

func TestIndexes(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", ""}, {"0", "0"}, {"0,1", "0,1"}, {"0,1,2", "0-2"}, {"0-3,4", "0-4"}, {"1,3-5,7", "1,3-5,7"},
		{"8,9", "8,9"}, {"8-20", "8,9"}, {"10", ""}, {"x,1", "1"}, {"0-x,1", "1"},
	} {
		if got := parseIndexes(tc.text, 10).String(); got != tc.want {
			t.Errorf("parseIndexes(%q) = %q, want %q", tc.text, got, tc.want)
		}
	}
	a, b := parseIndexes("0-2,5,8", 10), parseIndexes("3,5-6,9", 10)
	if got := a.and(b).String(); got != "0-3,5,6,8,9" {
		t.Errorf("union = %s", got)
	}
	if a.total() != 5 || a.overlap(b) != 1 || !a.has(5) || a.has(4) || a.has(9) {
		t.Errorf("total %d, overlap %d, has %t %t %t", a.total(), a.overlap(b), a.has(5), a.has(4), a.has(9))
	}
	if got := a.missing(3, 10); !slices.Equal(got, []int{3, 4, 6}) {
		t.Errorf("missing = %v", got)
	}
	if got := a.missing(9, 8); !slices.Equal(got, []int{3, 4, 6, 7}) {
		t.Errorf("missing = %v", got)
	}
}

func TestSurplus(t *testing.T) {
	running := phase(corev1.PodRunning)
	tooMany, rest := surplus([]*corev1.Pod{
		newPod("no-index", running), newPod("beyond", running, index(3)), newPod("a", running, index(0)),
		newPod("pending", phase(corev1.PodPending), index(1)), newPod("b", running, index(1)),
	}, 3, now)
	if got := names(tooMany); !slices.Equal(got, []string{"beyond", "no-index", "pending"}) {
		t.Errorf("too many: %v", got)
	}
	if got := names(rest); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("rest: %v", got)
	}
}

func names(pods []*corev1.Pod) []string {
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

func TestJudge(t *testing.T) {
	onExit := func(op batchv1.PodFailurePolicyOnExitCodesOperator, container *string, values ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: op, ContainerName: container, Values: values}}
	}
	onCondition := batchv1.PodFailurePolicyRule{OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	disrupted := func(pod *corev1.Pod) {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}
	}
	in, notIn := batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	for _, tc := range []struct {
		name   string
		rule   batchv1.PodFailurePolicyRule
		action batchv1.PodFailurePolicyAction
		pod    *corev1.Pod
		want   verdict
	}{
		{"code in", onExit(in, nil, 1, 42), "FailJob", newPod("p", exited("c", 42, ago(0))), verdict{"FailJob", "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 0"}},
		{"code not in", onExit(notIn, nil, 42), "Count", newPod("p", exited("c", 42, ago(0))), verdict{}},
		{"other code", onExit(notIn, nil, 42), "FailIndex", newPod("p", exited("c", 1, ago(0))), verdict{action: "FailIndex"}},
		{"success is no failure", onExit(notIn, nil, 42), "FailJob", newPod("p", exited("c", 0, ago(0))), verdict{}},
		{"other container", onExit(in, ptr.To("d"), 1), "FailJob", newPod("p", exited("c", 1, ago(0))), verdict{}},
		{"that container", onExit(in, ptr.To("d"), 1), "Ignore", newPod("p", exited("c", 1, ago(0)), exited("d", 1, ago(0))), verdict{action: "Ignore"}},
		{"condition", onCondition, "FailJob", newPod("p", disrupted), verdict{"FailJob", "Pod ns/p has condition DisruptionTarget matching FailJob rule at index 0"}},
		{"no condition", onCondition, "Ignore", newPod("p"), verdict{}},
		{"unknown action", onCondition, "Dance", newPod("p", disrupted), verdict{}},
	} {
		tc.rule.Action = tc.action
		if got := judge(&batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{tc.rule}}, tc.pod); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestSucceedsEarly(t *testing.T) {
	rule := func(indexes *string, count *int32) batchv1.SuccessPolicyRule {
		return batchv1.SuccessPolicyRule{SucceededIndexes: indexes, SucceededCount: count}
	}
	for _, tc := range []struct {
		name      string
		rules     []batchv1.SuccessPolicyRule
		succeeded string
		want      string
	}{
		{"leader", []batchv1.SuccessPolicyRule{rule(ptr.To("0"), nil)}, "0,3", "Matched rules at index 0"},
		{"leader still runs", []batchv1.SuccessPolicyRule{rule(ptr.To("0"), nil)}, "1-3", ""},
		{"count", []batchv1.SuccessPolicyRule{rule(nil, ptr.To[int32](2))}, "1,3", "Matched rules at index 0"},
		{"some of", []batchv1.SuccessPolicyRule{rule(ptr.To("0-4"), ptr.To[int32](2))}, "1,3,9", "Matched rules at index 0"},
		{"too few of", []batchv1.SuccessPolicyRule{rule(ptr.To("0-4"), ptr.To[int32](2))}, "1,8,9", ""},
		{"second", []batchv1.SuccessPolicyRule{rule(ptr.To("0"), nil), rule(nil, ptr.To[int32](1))}, "1", "Matched rules at index 1"},
		{"none yet", []batchv1.SuccessPolicyRule{rule(nil, ptr.To[int32](0))}, "", ""},
	} {
		got, ok := succeedsEarly(&batchv1.SuccessPolicy{Rules: tc.rules}, 10, parseIndexes(tc.succeeded, 10))
		if got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, %t; want %q", tc.name, got, ok, tc.want)
		}
	}
}

func TestBackoff(t *testing.T) {
	failed := func(d time.Duration) *corev1.Pod { return newPod("f", exited("c", 1, ago(d))) }
	succeeded := func(d time.Duration) *corev1.Pod { return newPod("s", exited("c", 0, ago(d))) }
	before := failures{count: 3, last: now.Add(-time.Minute), seen: now.Add(-time.Minute)}
	for _, tc := range []struct {
		name              string
		before            failures
		succeeded, failed []*corev1.Pod
		count             int
		left              time.Duration
	}{
		{name: "nothing"},
		{name: "first", failed: []*corev1.Pod{failed(time.Second)}, count: 1, left: 9 * time.Second},
		{name: "second", failed: []*corev1.Pod{failed(5 * time.Second), failed(time.Second)}, count: 2, left: 19 * time.Second},
		{name: "one more", before: before, failed: []*corev1.Pod{failed(0)}, count: 4, left: 80 * time.Second},
		{name: "success", before: before, succeeded: []*corev1.Pod{succeeded(0)}},
		{name: "failure after success", before: before, succeeded: []*corev1.Pod{succeeded(3 * time.Second)}, failed: []*corev1.Pod{failed(4 * time.Second), failed(time.Second)}, count: 1, left: 9 * time.Second},
		{name: "not for ever", before: failures{count: 99, last: now, seen: now}, count: 99, left: 10 * time.Minute},
		{name: "over", before: failures{count: 1, last: now.Add(-time.Hour), seen: now.Add(-time.Hour)}, count: 1},
		{name: "on a node whose clock is ahead", failed: []*corev1.Pod{failed(-time.Hour)}, count: 1, left: 10 * time.Second},
		{name: "some time ago on a node whose clock is ahead", before: failures{count: 2, last: now.Add(time.Hour), seen: now.Add(-15 * time.Second)}, count: 2, left: 5 * time.Second},
	} {
		f := tc.before.with(tc.succeeded, tc.failed, now)
		if left := f.left(now); f.count != tc.count || left != tc.left {
			t.Errorf("%s: %d failures, %v left; want %d, %v", tc.name, f.count, left, tc.count, tc.left)
		}
	}
}

// The last pod of an index tells alone how long its next one has to wait, whatever the clock of its node was.
func TestBackoffPerIndex(t *testing.T) {
	for ended, want := range map[time.Duration]time.Duration{3 * time.Second: 7 * time.Second, time.Minute: 0, -time.Hour: 6 * time.Second} {
		pod := newPod("p", exited("c", 1, ago(ended)))
		pod.CreationTimestamp = ago(4 * time.Second)
		if got := leftForIndex(pod, now); got != want {
			t.Errorf("it ended %s ago: %s left, want %s", ended, got, want)
		}
	}
	if got := leftForIndex(nil, now); got != 0 {
		t.Errorf("without one: %s left", got)
	}
}

func TestEndTime(t *testing.T) {
	notReady := func(pod *corev1.Pod) {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: ago(3 * time.Second)}}
	}
	sidecar := func(pod *corev1.Pod) {
		pod.Spec.InitContainers = []corev1.Container{{Name: "init"}, {Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
		pod.Status.InitContainerStatuses = []corev1.ContainerStatus{
			{Name: "init", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago(0)}}},
			{Name: "side", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago(time.Second)}}},
		}
	}
	gone := func(pod *corev1.Pod) {
		deleted(pod)
		pod.DeletionGracePeriodSeconds = ptr.To[int64](30)
	}
	running := func(pod *corev1.Pod) {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: "r"})
	}
	for _, tc := range []struct {
		pod  *corev1.Pod
		want time.Duration
	}{
		{newPod("last container", exited("a", 1, ago(9*time.Second)), exited("b", 0, ago(5*time.Second)), notReady), 5 * time.Second},
		{newPod("sidecar", exited("a", 1, ago(9*time.Second)), sidecar), time.Second},
		{newPod("a container is not known to have ended", exited("a", 1, ago(time.Second)), running, notReady), 3 * time.Second},
		{newPod("deleted", gone), 30 * time.Second},
		{newPod("created"), time.Hour},
	} {
		if got := now.Sub(endTime(tc.pod)); got != tc.want {
			t.Errorf("%s: ended %v ago, want %v", tc.pod.Name, got, tc.want)
		}
	}
}

// A Job does not complete before its start, which the API would refuse, though the clock may have been set back since.
func TestCompletionTime(t *testing.T) {
	for start, want := range map[time.Duration]time.Duration{time.Hour: 0, -time.Hour: -time.Hour} {
		s := &state{now: now, ending: &batchv1.JobCondition{Type: batchv1.JobSuccessCriteriaMet}, job: &batchv1.Job{
			Status: batchv1.JobStatus{StartTime: ptr.To(ago(start)), UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{}},
		}}
		if !s.finish() || now.Sub(s.job.Status.CompletionTime.Time) != want {
			t.Errorf("a Job that started %s ago completed at %v, want %s ago", start, s.job.Status.CompletionTime, want)
		}
	}
}

// Of several reasons to end, the first counts; what was decided stays so.
func TestEnd(t *testing.T) {
	failedPod := func(name string, more ...func(*corev1.Pod)) *corev1.Pod {
		return newPod(name, append([]func(*corev1.Pod){exited("c", 1, ago(time.Minute))}, more...)...)
	}
	limit := func(n int32) func(*batchv1.JobSpec) { return func(s *batchv1.JobSpec) { s.BackoffLimit = &n } }
	policy := func(action batchv1.PodFailurePolicyAction) func(*batchv1.JobSpec) {
		return func(s *batchv1.JobSpec) {
			s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}},
			}}}
		}
	}
	deadline := func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](60) }
	early := func(s *batchv1.JobSpec) {
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr.To[int32](1)}}}
	}
	maxFailed := func(s *batchv1.JobSpec) { s.MaxFailedIndexes = ptr.To[int32](0) }
	onFailure := func(s *batchv1.JobSpec) { s.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }
	restarted := func(n int32) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			pod.Status.Phase = corev1.PodRunning
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}}
		}
	}
	onlyEnded := func(s *batchv1.JobSpec) { s.PodReplacementPolicy = ptr.To(batchv1.Failed) }
	for _, tc := range []struct {
		name    string
		job     *batchv1.Job
		pods    []*corev1.Pod
		started time.Duration
		want    string
	}{
		{name: "goes on", job: newJob(limit(1)), pods: []*corev1.Pod{failedPod("a")}},
		{name: "backoffLimit", job: newJob(limit(0)), pods: []*corev1.Pod{failedPod("a")}, want: "BackoffLimitExceeded"},
		{name: "deleted pods have failed", job: newJob(limit(0)), pods: []*corev1.Pod{newPod("a", deleted)}, want: "BackoffLimitExceeded"},
		{name: "unless only ended ones are replaced", job: newJob(limit(0), onlyEnded), pods: []*corev1.Pod{newPod("a", deleted)}},
		{name: "ignored by policy", job: newJob(limit(0), policy("Ignore")), pods: []*corev1.Pod{failedPod("a")}},
		{name: "counted by policy", job: newJob(limit(0), policy("Count")), pods: []*corev1.Pod{failedPod("a")}, want: "BackoffLimitExceeded"},
		{name: "policy first", job: newJob(limit(0), policy("FailJob")), pods: []*corev1.Pod{failedPod("a")}, want: "PodFailurePolicy"},
		{name: "restarts", job: newJob(limit(2), onFailure), pods: []*corev1.Pod{newPod("a", restarted(2))}, want: "BackoffLimitExceeded"},
		{name: "few restarts", job: newJob(limit(2), onFailure), pods: []*corev1.Pod{newPod("a", restarted(1))}},
		{name: "no restart", job: newJob(limit(0), onFailure), pods: []*corev1.Pod{newPod("a", restarted(0))}},
		{name: "deadline", job: newJob(deadline), started: time.Minute, want: "DeadlineExceeded"},
		{name: "before the deadline", job: newJob(deadline), started: 59 * time.Second},
		{name: "failed index", job: newJob(perIndex(0)), pods: []*corev1.Pod{failedPod("a", index(0))}},
		{name: "all indexes ended", job: newJob(perIndex(0)), want: "FailedIndexes",
			pods: []*corev1.Pod{failedPod("a", index(0)), failedPod("b", index(1)), newPod("c", exited("c", 0, ago(0)), index(2)), failedPod("d", index(3))}},
		{name: "maxFailedIndexes", job: newJob(perIndex(0), maxFailed), pods: []*corev1.Pod{failedPod("a", index(0))}, want: "MaxFailedIndexesExceeded"},
		{name: "index may fail again", job: newJob(perIndex(1), maxFailed), pods: []*corev1.Pod{failedPod("a", index(0))}},
		{name: "policy FailIndex", job: newJob(perIndex(1), maxFailed, policy("FailIndex")), pods: []*corev1.Pod{failedPod("a", index(0))}, want: "MaxFailedIndexesExceeded"},
		{name: "successPolicy", job: newJob(indexedMode, early), pods: []*corev1.Pod{newPod("a", exited("c", 0, ago(0)), index(2))}, want: "SuccessPolicy"},
	} {
		tc.job.Status.StartTime = ptr.To(ago(tc.started))
		s := stateOf(tc.job, tc.pods...)
		got := ""
		if c := s.end(); c != nil {
			got = c.Reason
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if tc.name == "before the deadline" && s.again != time.Second {
			t.Errorf("%s: again in %v", tc.name, s.again)
		}
	}

	job := newJob(limit(0))
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, Reason: "before"}}
	if c := stateOf(job, failedPod("a")).end(); c == nil || c.Reason != "before" {
		t.Errorf("a Job that was to succeed ends with %+v", c)
	}
}

func TestWanted(t *testing.T) {
	for _, tc := range []struct {
		name               string
		change             func(*batchv1.JobSpec)
		running, succeeded int
		want               int
	}{
		{name: "parallelism", change: func(*batchv1.JobSpec) {}, want: 2},
		{name: "one left", change: func(*batchv1.JobSpec) {}, succeeded: 3, want: 1},
		{name: "more than enough", change: func(*batchv1.JobSpec) {}, succeeded: 9, want: 0},
		{name: "suspended", change: func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) }, running: 2, want: 0},
		{name: "work queue", change: func(s *batchv1.JobSpec) { s.Completions = nil }, running: 1, want: 2},
		{name: "work queue is empty", change: func(s *batchv1.JobSpec) { s.Completions = nil }, running: 1, succeeded: 1, want: 1},
	} {
		s := &state{job: newJob(tc.change), running: int32(tc.running), succeeded: tc.succeeded}
		if got := s.wanted(); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// The last failed pod of an index stays until there is another one, which inherits its counts.
func TestAwaitedPods(t *testing.T) {
	failedPod := func(name string, i, count int) *corev1.Pod {
		return newPod(name, exited("c", 1, ago(time.Hour)), index(i), annotation(batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(count)))
	}
	first, second := failedPod("first", 0, 0), failedPod("second", 0, 1)
	s := stateOf(newJob(perIndex(5)), first, second, failedPod("replaced", 1, 0), newPod("active", phase(corev1.PodRunning), index(1)))
	if len(s.awaited) != 1 || s.awaited[0] != second {
		t.Fatalf("awaited are %v", s.awaited)
	}
	for _, pod := range s.pods {
		want := pod.Name == "first" || pod.Name == "replaced"
		if got := s.mayUntrack(pod); got != want {
			t.Errorf("mayUntrack(%s) = %t", pod.Name, got)
		}
	}
	pod := s.newPod(0)
	if pod.Annotations[batchv1.JobIndexFailureCountAnnotation] != "2" || pod.GenerateName != "sum-0-" || pod.Spec.Hostname != "sum-0" ||
		pod.Labels[batchv1.JobCompletionIndexAnnotation] != "0" || !tracked(pod) {
		t.Errorf("the new pod is %+v", pod.ObjectMeta)
	}
}

func TestNoteEnded(t *testing.T) {
	job := newJob()
	job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"noted"}, Failed: []types.UID{"gone"}}
	s := stateOf(job, newPod("noted", phase(corev1.PodSucceeded)), newPod("new", phase(corev1.PodSucceeded)),
		newPod("failed", phase(corev1.PodFailed)), newPod("runs", phase(corev1.PodRunning)))
	s.settle(sets.New[types.UID]("noted", "new", "failed", "runs"))
	ended, all := s.noteEnded()
	uncounted := job.Status.UncountedTerminatedPods
	if !all || !slices.Equal(names(ended), []string{"failed", "new", "noted"}) || job.Status.Failed != 1 ||
		!slices.Equal(uncounted.Succeeded, []types.UID{"noted", "new"}) || !slices.Equal(uncounted.Failed, []types.UID{"failed"}) {
		t.Errorf("ended %v (all: %t), status %+v", names(ended), all, job.Status)
	}
	if s.succeeded != 2 || s.failed != 2 {
		t.Errorf("%d succeeded, %d failed", s.succeeded, s.failed)
	}
}

func TestIndexedName(t *testing.T) {
	long := "a-name-of-a-job-that-is-so-long-that-it-has-to-be-cut-off-somewhere"
	for _, tc := range []struct{ job, want string }{
		{"sum", "sum-12-"},
		{long, long[:54] + "-12-"},
	} {
		if got := indexedName(tc.job, "12"); got != tc.want {
			t.Errorf("indexedName(%s) = %s", tc.job, got)
		}
	}
}

func TestOldWritesAreNotSeenAgain(t *testing.T) {
	m := memory{jobs: map[types.NamespacedName]*notes{}}
	job := newJob()
	job.ResourceVersion = "10"
	m.wrote(job)
	for version, want := range map[string]bool{"9": false, "10": true, "100": true} {
		job.ResourceVersion = version
		if got := m.upToDate(job); got != want {
			t.Errorf("version %s: %t", version, got)
		}
	}
	job.UID, job.ResourceVersion = "another", "1"
	if !m.upToDate(job) {
		t.Error("a new Job of the same name is mistaken for the old one")
	}
}
