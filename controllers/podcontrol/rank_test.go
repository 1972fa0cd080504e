// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func pod(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Time{Time: now.Add(-time.Hour)}},
		Spec:       corev1.PodSpec{NodeName: "n"},
		Status: corev1.PodStatus{
			Phase:      corev1.PodRunning,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-time.Hour)}}},
		},
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

func unbound(p *corev1.Pod)  { p.Spec.NodeName = "" }
func pending(p *corev1.Pod)  { p.Status.Phase = corev1.PodPending }
func notReady(p *corev1.Pod) { p.Status.Conditions = nil }
func cost(value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: value} }
}
func on(node string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = node } }
func readyFor(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions[0].LastTransitionTime = metav1.Time{Time: now.Add(-d)}
	}
}
func restarted(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}
func aged(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.Time{Time: now.Add(-d)} }
}

func TestSortForDeletion(t *testing.T) {
	neighbour := pod("neighbour", on("crowded"))
	for _, tc := range []struct {
		rule          string
		first, second *corev1.Pod
	}{
		{"unbound before bound", pod("a", unbound), pod("b", pending, notReady, cost("-10"))},
		{"pending before running", pod("a", pending), pod("b", notReady)},
		{"not ready before ready", pod("a", notReady, cost("10")), pod("b", cost("-10"))},
		{"cheap before dear", pod("a", cost("-1")), pod("b", restarted(9))},
		{"a cost that is no number is none", pod("a", cost("-1")), pod("b", cost("+5"))},
		{"crowded node first", pod("a", on("crowded")), pod("b", on("lonely"), readyFor(time.Second))},
		{"ready for a shorter time first", pod("a", readyFor(time.Minute)), pod("b")},
		{"more restarts first", pod("a", restarted(2)), pod("b", restarted(1), aged(time.Second))},
		{"younger first", pod("a", aged(time.Minute)), pod("b")},
	} {
		for _, pods := range [][]*corev1.Pod{{tc.first, tc.second}, {tc.second, tc.first}} {
			SortForDeletion(pods, []*corev1.Pod{tc.first, tc.second, neighbour}, now)
			if pods[0] != tc.first {
				t.Errorf("%s: not so", tc.rule)
			}
		}
	}
}

func TestAvailable(t *testing.T) {
	for _, tc := range []struct {
		pod        *corev1.Pod
		minSeconds int32
		want       bool
		next       time.Duration
	}{
		{pod("a", notReady), 0, false, 0},
		{pod("a"), 0, true, 0},
		{pod("a", readyFor(10*time.Second)), 10, true, 0},
		{pod("a", readyFor(9*time.Second)), 10, false, time.Second},
	} {
		if got := Available(tc.pod, tc.minSeconds, now); got != tc.want {
			t.Errorf("Available(%v, %d) = %t, want %t", tc.pod.Status.Conditions, tc.minSeconds, got, tc.want)
		}
		if got := NextAvailable([]*corev1.Pod{tc.pod}, tc.minSeconds, now); got != tc.next {
			t.Errorf("NextAvailable = %v, want %v", got, tc.next)
		}
	}
}

func TestGenerateName(t *testing.T) {
	long := make([]byte, 253)
	for i := range long {
		long[i] = 'a'
	}
	for owner, want := range map[string]string{"web": "web-", string(long): string(long)} {
		if got := generateName(owner); got != want {
			t.Errorf("generateName(%.10q...) = %.20q...", owner, got)
		}
	}
}
