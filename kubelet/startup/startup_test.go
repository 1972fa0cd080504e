// SPDX-License-Identifier: Apache-2.0

package startup

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics/testutil"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

func newPod(more ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "1", CreationTimestamp: metav1.Now()}}
	for _, change := range more {
		change(pod)
	}
	return pod
}

func running(pod *v1.Pod) *v1.Pod {
	pod = pod.DeepCopy()
	now := metav1.Now()
	pod.Status.StartTime = &now
	pod.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: now}}}}
	return pod
}

// seen are how many pods the histograms have, and the sum of their seconds.
func seen(t *testing.T, m *metrics.Metrics) (total, sli, totalSum, sliSum float64) {
	t.Helper()
	of := func(name string) (count, sum float64) {
		h, err := testutil.GetHistogramVecFromGatherer(m.All, name, nil)
		if err != nil {
			return 0, 0 // nothing was observed
		}
		return float64(h.GetAggregatedSampleCount()), h.GetAggregatedSampleSum()
	}
	total, totalSum = of("kubelet_pod_start_total_duration_seconds")
	sli, sliSum = of("kubelet_pod_start_sli_duration_seconds")
	return total, sli, totalSum, sliSum
}

// What a pod waits for by its own doing is in the one figure and not in the other, and what happens at the same time counts once.
func TestSpans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New("n")
		tracker, pod := New(m), newPod()
		tracker.Observed(pod, time.Now())
		tracker.Pulling(pod.UID, "a") // 0 s
		time.Sleep(2 * time.Second)
		tracker.Pulling(pod.UID, "b") // 2 s
		time.Sleep(time.Second)
		tracker.Pulled(pod.UID, "a")  // 3 s
		tracker.Pulling(pod.UID, "b") // it had failed
		time.Sleep(2 * time.Second)
		tracker.Pulled(pod.UID, "b") // 5 s
		time.Sleep(time.Second)
		tracker.Initialized(pod.UID, 250*time.Millisecond)
		tracker.Initialized(pod.UID, 500*time.Millisecond)
		tracker.Observed(pod, time.Now()) // nothing runs yet
		tracker.Observed(running(pod), time.Now())
		tracker.Observed(running(pod), time.Now().Add(time.Hour)) // it counts once
		total, sli, totalSum, sliSum := seen(t, m)
		if total != 1 || sli != 1 || totalSum != 6 || sliSum != 0.5 {
			t.Errorf("%v pods in %v s, %v in %v s; want one in 6 s, and without pulls and init containers in 0.5 s", total, totalSum, sli, sliSum)
		}
		if first, err := testutil.GetGaugeMetricValue(m.FirstNetworkPodStartSLI); err != nil || first != 0.5 {
			t.Errorf("the first with a network took %v s, %v", first, err)
		}
	})
}

// What does not count, and what counts for one figure only.
func TestWhoCounts(t *testing.T) {
	unschedulable := func(pod *v1.Pod) {
		pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse}}
	}
	for name, c := range map[string]struct {
		first, then func(*v1.Pod)
		total, sli  float64
	}{
		"a new one":            {nil, nil, 1, 1},
		"one that ran before":  {func(pod *v1.Pod) { now := metav1.Now(); pod.Status.StartTime = &now }, nil, 0, 0},
		"one that had to wait": {unschedulable, func(pod *v1.Pod) { pod.Status.Conditions = nil }, 0, 0},
		"one that waits later": {nil, unschedulable, 0, 0},
		"one that failed":      {nil, func(pod *v1.Pod) { pod.Status.Phase = v1.PodFailed }, 0, 0},
		"with an emptyDir": {func(pod *v1.Pod) {
			pod.Spec.Volumes = []v1.Volume{{VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
		}, nil, 1, 1},
		"with a claim": {func(pod *v1.Pod) {
			pod.Spec.Volumes = []v1.Volume{{VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}}}
		}, nil, 1, 0},
		"a container that waits": {nil, func(pod *v1.Pod) {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, v1.ContainerStatus{})
		}, 0, 0},
		"no container's status":   {nil, func(pod *v1.Pod) { pod.Status.ContainerStatuses = nil }, 0, 0},
		"on the node's own netns": {func(pod *v1.Pod) { pod.Spec.HostNetwork = true }, nil, 1, 1},
	} {
		m := metrics.New("n")
		tracker, pod := New(m), newPod()
		if c.first != nil {
			c.first(pod)
		}
		tracker.Observed(pod, time.Now())
		pod = running(pod)
		if c.then != nil {
			c.then(pod)
		}
		tracker.Observed(pod, time.Now())
		tracker.Observed(pod, time.Now())
		if total, sli, _, _ := seen(t, m); total != c.total || sli != c.sli {
			t.Errorf("%s: %v and %v, want %v and %v", name, total, sli, c.total, c.sli)
		}
		tracker.Forget(pod.UID)
		if len(tracker.pods) != 0 {
			t.Errorf("%s: it is remembered", name)
		}
	}
}
