// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var began = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func newPod(change ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u", Annotations: map[string]string{}},
		Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways, Containers: []v1.Container{
			{Name: "c", Image: "img", ReadinessProbe: &v1.Probe{}},
		}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func annotate(pairs ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		for i := 0; i < len(pairs); i += 2 {
			p.Annotations[pairs[i]] = pairs[i+1]
		}
	}
}

func once(p *v1.Pod) { p.Spec.RestartPolicy = v1.RestartPolicyNever }

// life moves a pod on through the moments that it asks for.
type life struct {
	*testing.T
	pod   *v1.Pod
	state *state
	now   time.Time
	next  time.Time
}

func start(t *testing.T, pod *v1.Pod) *life {
	l := &life{T: t, pod: pod, now: began}
	l.state = newState(pod, func() string { return "198.18.0.1" }, began)
	l.look()
	return l
}

func (l *life) look() {
	old := l.pod.Status
	is, next := l.state.step(l.pod, &old, behaviourOf(l.pod, 0), l.now)
	if is.StartTime == nil {
		is.StartTime = &metav1.Time{Time: began}
	}
	l.pod.Status, l.next = is, next
}

// wait goes on to the moment that the pod asked for.
func (l *life) wait(want time.Duration) {
	l.Helper()
	if got := l.next.Sub(began); l.next.IsZero() || got != want {
		l.Fatalf("next look is at %v, want after %v", l.next, want)
	}
	l.now = l.next
	l.look()
}

func (l *life) is(phase v1.PodPhase, ready v1.ConditionStatus, reason string, restarts int32) {
	l.Helper()
	c := l.pod.Status.ContainerStatuses[0]
	got := ""
	switch {
	case c.State.Waiting != nil:
		got = c.State.Waiting.Reason
	case c.State.Terminated != nil:
		got = c.State.Terminated.Reason
	}
	isReady := v1.ConditionFalse
	for _, condition := range l.pod.Status.Conditions {
		if condition.Type == v1.PodReady {
			isReady = condition.Status
		}
	}
	if l.pod.Status.Phase != phase || isReady != ready || got != reason || c.RestartCount != restarts {
		l.Fatalf("pod is %s, ready %s, %q, %d restarts; want %s, %s, %q, %d", l.pod.Status.Phase, isReady, got, c.RestartCount, phase, ready, reason, restarts)
	}
}

func TestPodRuns(t *testing.T) {
	l := start(t, newPod())
	l.is(v1.PodRunning, v1.ConditionTrue, "", 0)
	if l.pod.Status.PodIP != "198.18.0.1" || !l.next.IsZero() {
		t.Errorf("pod has IP %q and waits for %v", l.pod.Status.PodIP, l.next)
	}
}

func TestPodTakesTimeToStart(t *testing.T) {
	l := start(t, newPod(annotate(StartAfterAnnotation, "2s")))
	l.is(v1.PodPending, v1.ConditionFalse, "ContainerCreating", 0)
	l.wait(2 * time.Second)
	l.is(v1.PodRunning, v1.ConditionTrue, "", 0)
}

func TestPodNeverStarts(t *testing.T) {
	l := start(t, newPod(annotate(WaitingAnnotation, "ImagePullBackOff")))
	l.is(v1.PodPending, v1.ConditionFalse, "ImagePullBackOff", 0)
	l = start(t, newPod(annotate(RunForAnnotation, "soon")))
	l.is(v1.PodPending, v1.ConditionFalse, "CreateContainerConfigError", 0)
}

func TestPodEnds(t *testing.T) {
	l := start(t, newPod(once, annotate(RunForAnnotation, "3s")))
	l.is(v1.PodRunning, v1.ConditionTrue, "", 0)
	l.wait(3 * time.Second)
	l.is(v1.PodSucceeded, v1.ConditionFalse, "Completed", 0)
	l = start(t, newPod(once, annotate(RunForAnnotation, "3s", ExitCodeAnnotation, "7")))
	l.wait(3 * time.Second)
	l.is(v1.PodFailed, v1.ConditionFalse, "Error", 0)
	if code := l.pod.Status.ContainerStatuses[0].State.Terminated.ExitCode; code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

// A container that fails again and again waits twice as long each time, as with the real kubelet.
func TestPodCrashes(t *testing.T) {
	l := start(t, newPod(annotate(RunForAnnotation, "1s", ExitCodeAnnotation, "1")))
	l.wait(time.Second)
	l.is(v1.PodRunning, v1.ConditionFalse, "CrashLoopBackOff", 0)
	l.wait(11 * time.Second)
	l.is(v1.PodRunning, v1.ConditionTrue, "", 1)
	l.wait(12 * time.Second)
	l.is(v1.PodRunning, v1.ConditionFalse, "CrashLoopBackOff", 1)
	l.wait(32 * time.Second)
	l.is(v1.PodRunning, v1.ConditionTrue, "", 2)
}

// Init containers run one after the other before the others, sidecars stay.
func TestPodInitializes(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	l := start(t, newPod(func(p *v1.Pod) {
		p.Spec.InitContainers = []v1.Container{{Name: "a", Image: "i"}, {Name: "side", Image: "i", RestartPolicy: &always}, {Name: "b", Image: "i"}}
	}))
	l.is(v1.PodRunning, v1.ConditionTrue, "", 0)
	inits := l.pod.Status.InitContainerStatuses
	if inits[0].State.Terminated == nil || inits[1].State.Running == nil || inits[2].State.Terminated == nil {
		t.Errorf("init containers are %v", inits)
	}
}

func TestPodIsActiveForTooLong(t *testing.T) {
	limit := int64(5)
	l := start(t, newPod(func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = &limit }))
	l.look() // the first look set the start time
	l.wait(5 * time.Second)
	if l.pod.Status.Phase != v1.PodFailed || l.pod.Status.Reason != "DeadlineExceeded" {
		t.Errorf("pod is %s, %s", l.pod.Status.Phase, l.pod.Status.Reason)
	}
}

func TestPodIsDeleted(t *testing.T) {
	l := start(t, newPod(annotate(StopAfterAnnotation, "4s")))
	grace := int64(30)
	l.pod.DeletionTimestamp, l.pod.DeletionGracePeriodSeconds = &metav1.Time{Time: began.Add(30 * time.Second)}, &grace
	l.look()
	l.is(v1.PodRunning, v1.ConditionTrue, "", 0)
	l.wait(4 * time.Second)
	if !l.state.over || l.pod.Status.ContainerStatuses[0].State.Terminated == nil {
		t.Errorf("after its time to stop, the pod is %v", l.pod.Status)
	}
}

// What an earlier process started goes on as it was.
func TestPodIsTakenOver(t *testing.T) {
	l := start(t, newPod(annotate(RunForAnnotation, "1s", ExitCodeAnnotation, "1")))
	l.wait(time.Second)
	l.wait(11 * time.Second)
	before := l.pod.Status.DeepCopy()
	l.state = newState(l.pod, func() string { t.Error("asked for another address"); return "" }, l.now)
	l.look()
	l.is(v1.PodRunning, v1.ConditionTrue, "", 1)
	if id := l.pod.Status.ContainerStatuses[0].ContainerID; id != before.ContainerStatuses[0].ContainerID {
		t.Errorf("container is %s, was %s", id, before.ContainerStatuses[0].ContainerID)
	}
}

// New addresses come after those that pods have from another server's turn.
func TestAddressesAreNotGivenTwice(t *testing.T) {
	f := &Fleet{pods: map[types.UID]*entry{}}
	for i, ip := range []string{"", "192.0.2.200", address(300), address(7), address(1<<16 + 9000), "198.18.0.0"} {
		e := &entry{}
		e.pod.Store(&v1.Pod{Status: v1.PodStatus{PodIP: ip}})
		f.pods[types.UID(fmt.Sprint(i))] = e
	}
	f.skipUsed()
	if got := f.newIP(); got != address(301) {
		t.Errorf("a new pod gets %s, want %s", got, address(301))
	}
}
