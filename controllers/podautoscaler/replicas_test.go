// SPDX-License-Identifier: Apache-2.0

package podautoscaler

import (
	"fmt"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPerPod(t *testing.T) {
	now := metav1.Now()
	pending := func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	notReady := func(p *corev1.Pod) { // and it never was
		p.Status.Conditions[0].Status, p.Status.Conditions[0].LastTransitionTime = corev1.ConditionFalse, *p.Status.StartTime
	}
	young := func(p *corev1.Pod) { p.Status.StartTime, p.Status.Conditions[0].LastTransitionTime = &now, now }
	const missing = -1
	for _, test := range []struct {
		name     string
		used     []int64 // of each pod, in percent of its request
		change   map[int]func(*corev1.Pod)
		target   int32
		replicas int32 // wanted
		err      string
	}{
		{name: "as wished", used: []int64{50, 50}, target: 50, replicas: 2},
		{name: "within the tolerance", used: []int64{54, 54}, target: 50, replicas: 2},
		{name: "more", used: []int64{90, 90}, target: 30, replicas: 6},
		{name: "less", used: []int64{10, 10, 10}, target: 30, replicas: 1},
		{name: "pending pods would have no part in the load", used: []int64{100, 100, missing}, change: map[int]func(*corev1.Pod){2: pending}, target: 50, replicas: 4},
		{name: "pending pods would be enough", used: []int64{60, missing}, change: map[int]func(*corev1.Pod){1: pending}, target: 50, replicas: 2},
		{name: "failed pods do not count", used: []int64{100, 0}, change: map[int]func(*corev1.Pod){1: failed}, target: 50, replicas: 2},
		{name: "pods that are not ready do not use", used: []int64{100, 500}, change: map[int]func(*corev1.Pod){1: notReady}, target: 50, replicas: 2},
		{name: "pods that start do not use", used: []int64{100, 500}, change: map[int]func(*corev1.Pod){1: young}, target: 50, replicas: 2},
		{name: "unknown pods use all when less is used", used: []int64{10, 10, missing}, target: 50, replicas: 3},
		{name: "unknown pods use nothing when more is used", used: []int64{200, 200, missing}, target: 50, replicas: 8},
		{name: "no pod is ready", used: []int64{10}, change: map[int]func(*corev1.Pod){0: notReady}, target: 50, err: "did not receive metrics for targeted pods (pods might be unready)"},
		{name: "no pods", target: 50, err: "no pods returned by selector while calculating replica count"},
	} {
		t.Run(test.name, func(t *testing.T) {
			used, set := Samples{}, &podSet{}
			for i, percent := range test.used {
				p := pod(i)
				if change := test.change[i]; change != nil {
					change(p)
				}
				set.list = append(set.list, p)
				if percent != missing {
					used[p.Name] = Sample{percent * 10, time.Now(), time.Minute}
				}
			}
			requests, err := requestsOf(set.list, "", corev1.ResourceCPU)
			if err != nil {
				t.Fatal(err)
			}
			q := question{pods: set, tolerance: tolerance{0.1, 0.1}, scale: &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: int32(len(test.used))}}}
			got, _, err := q.perPod(used, corev1.ResourceCPU, &utilization{target: test.target, requests: requests})
			if got != test.replicas || fmt.Sprint(err) != fmt.Sprint(orNil(test.err)) {
				t.Errorf("perPod = %d, %v; want %d, %v", got, err, test.replicas, orNil(test.err))
			}
		})
	}
}

// Setting the clock neither makes pods that run count as new, nor new ones as old.
func TestStartingWhenTheClockIsSet(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name        string
		started     time.Duration // before now, by the clock as it is
		ready       corev1.ConditionStatus
		becameReady time.Duration // after the start
		sampled     time.Duration // before now
		want        bool
	}{
		{"new", time.Minute, corev1.ConditionTrue, 50 * time.Second, 5 * time.Second, true},
		{"old", time.Hour, corev1.ConditionTrue, 10 * time.Second, 5 * time.Second, false},
		{"of a node whose clock is a little fast", -10 * time.Second, corev1.ConditionTrue, time.Second, 5 * time.Second, true},
		{"old, and the clock was set back", -2 * time.Hour, corev1.ConditionTrue, 10 * time.Second, 5 * time.Second, false},
		{"never ready, and the clock was set back", -2 * time.Hour, corev1.ConditionFalse, 0, 5 * time.Second, true},
		{"ready once, and the clock was set back", -2 * time.Hour, corev1.ConditionFalse, time.Hour, 5 * time.Second, false},
		{"new, and the clock was set forward", time.Hour, corev1.ConditionTrue, 10 * time.Second, 5 * time.Second, false},
	} {
		start := now.Add(-tc.started)
		pod := &corev1.Pod{Status: corev1.PodStatus{StartTime: &metav1.Time{Time: start}, Conditions: []corev1.PodCondition{{
			Type: corev1.PodReady, Status: tc.ready, LastTransitionTime: metav1.Time{Time: start.Add(tc.becameReady)},
		}}}}
		if got := isStarting(pod, Sample{Time: now.Add(-tc.sampled), Window: 30 * time.Second}, now); got != tc.want {
			t.Errorf("%s: starting is %v, want %v", tc.name, got, tc.want)
		}
	}
}

func orNil(text string) any {
	if text == "" {
		return nil
	}
	return text
}

func TestWhole(t *testing.T) {
	value := func(n int64) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Value: resource.NewQuantity(n, resource.DecimalSI)}
	}
	average := func(n int64) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{AverageValue: resource.NewQuantity(n, resource.DecimalSI)}
	}
	for _, test := range []struct {
		name     string
		replicas int32
		value    int64
		target   autoscalingv2.MetricTarget
		want     int32
	}{
		{"as wished", 2, 10, value(10), 2},
		{"twice", 2, 20, value(10), 4},
		{"half", 4, 5, value(10), 2},
		{"from nothing", 0, 25, value(10), 3},
		{"nothing to do", 3, 0, value(10), 0},
		{"shared as wished", 3, 30, average(10), 3},
		{"shared by more", 3, 41, average(10), 5},
		{"shared by nobody yet", 0, 41, average(10), 5},
		{"far too much", 3, 1 << 50, average(1), 1<<31 - 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := &podSet{}
			for i := range test.replicas {
				set.list = append(set.list, pod(int(i)))
			}
			q := question{pods: set, tolerance: tolerance{0.1, 0.1}, scale: &autoscalingv1.Scale{
				Spec: autoscalingv1.ScaleSpec{Replicas: test.replicas}, Status: autoscalingv1.ScaleStatus{Replicas: test.replicas},
			}}
			got, _, err := q.whole(test.value*1000, test.target, "m", "external")
			if err != nil || got.replicas != test.want {
				t.Errorf("whole = %d, %v; want %d", got.replicas, err, test.want)
			}
		})
	}
}

func TestChoosePolicy(t *testing.T) {
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 60}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 50, PeriodSeconds: 60}
	for _, test := range []struct {
		selected autoscalingv2.ScalingPolicySelect
		current  int32
		up, down int32
	}{
		{autoscalingv2.MaxChangePolicySelect, 10, 15, 5},
		{autoscalingv2.MinChangePolicySelect, 10, 14, 6},
		{autoscalingv2.MaxChangePolicySelect, 2, 6, -2},
		{autoscalingv2.MinChangePolicySelect, 2, 3, 1},
		{autoscalingv2.DisabledPolicySelect, 10, 10, 10},
	} {
		r := &autoscalingv2.HPAScalingRules{SelectPolicy: &test.selected, Policies: []autoscalingv2.HPAScalingPolicy{pods, percent}}
		h := &history{}
		if up, down := h.fastestUp(test.current, r), h.fastestDown(test.current, r); up != test.up || down != test.down {
			t.Errorf("%s of %d = %d up, %d down; want %d, %d", test.selected, test.current, up, down, test.up, test.down)
		}
	}
}
