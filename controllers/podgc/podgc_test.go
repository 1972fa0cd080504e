// SPDX-License-Identifier: Apache-2.0

package podgc

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func newPod(name, node string, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{NodeName: node}}
	if change != nil {
		change(pod)
	}
	return pod
}

func terminating(pod *corev1.Pod) {
	now := metav1.Now()
	pod.DeletionTimestamp, pod.Finalizers = &now, []string{"example.com/hold"}
}

func ended(pod *corev1.Pod) { pod.Status.Phase = corev1.PodSucceeded }

func evicted(pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted"}
}

func run(t *testing.T, threshold int, objects ...runtime.Object) *controllertest.Cluster {
	t.Helper()
	cluster := controllertest.New(t, objects...)
	c, err := New(cluster.Clientset, cluster.Factory, threshold, metrics.New().PodGC)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Run(c)
	return cluster
}

func names(cluster *controllertest.Cluster) string {
	var names []string
	for _, pod := range cluster.Pods() {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestPodsNobodyElseDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "down"},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}},
		}
		up := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "up"}}
		cluster := run(t, 0, down, up,
			newPod("fine", "up", nil), newPod("ending", "up", terminating),
			newPod("out-of-service", "down", terminating), newPod("still-there", "down", nil),
			newPod("never-bound", "", terminating), newPod("waiting", "", nil),
			newPod("orphan", "gone", nil))
		if got, want := names(cluster), "ending fine orphan still-there waiting"; got != want {
			t.Errorf("at once: %q, want %q", got, want)
		}
		time.Sleep(41 * time.Second)
		synctest.Wait()
		if got, want := names(cluster), "ending fine still-there waiting"; got != want {
			t.Errorf("after the quarantine: %q, want %q", got, want)
		}
		if err := cluster.CoreV1().Nodes().Delete(t.Context(), "up", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(41 * time.Second)
		synctest.Wait()
		if got, want := names(cluster), "still-there waiting"; got != want {
			t.Errorf("after the node went: %q, want %q", got, want)
		}
	})
}

// A pod of a node that is missing is given the quarantine, whatever happens to the pod meanwhile, and whatever the clock says: the node may
// only be about to register anew, and its containers run.
func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		cluster := run(t, 0, node, newPod("old", "n", nil))
		nodes := cluster.CoreV1().Nodes()
		remove := func() {
			t.Helper()
			if err := nodes.Delete(t.Context(), "n", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		remove()
		time.Sleep(20 * time.Second)
		for _, pod := range []*corev1.Pod{newPod("ending", "n", terminating), newPod("ending-elsewhere", "m", terminating)} {
			if _, err := cluster.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		cluster.SetClock(time.Hour)
		if got, want := names(cluster), "ending ending-elsewhere old"; got != want {
			t.Errorf("in quarantine: %q, want %q", got, want)
		}
		time.Sleep(21 * time.Second)
		if got, want := names(cluster), "ending-elsewhere"; got != want {
			t.Errorf("after 41 s without n, and 21 s without m: %q, want %q", got, want)
		}
		time.Sleep(20 * time.Second)
		if got := names(cluster); got != "" {
			t.Errorf("after 41 s without m: %q, want none", got)
		}

		node.ResourceVersion = ""
		for _, pod := range []string{"first", "second"} { // the node comes back, and its next absence counts anew
			if _, err := nodes.Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, err := cluster.CoreV1().Pods("default").Create(t.Context(), newPod(pod, "n", nil), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			remove()
			time.Sleep(30 * time.Second)
		}
		if got, want := names(cluster), "first second"; got != want {
			t.Errorf("after 30 s: %q, want %q", got, want)
		}
	})
}

func TestEndedPodsBeyondThreshold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, 2, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
			newPod("a", "n", ended), newPod("b", "n", ended), newPod("c", "n", evicted), newPod("d", "n", ended), newPod("running", "n", nil))
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := names(cluster), "b d running"; got != want { // evicted first, then the oldest, then by name
			t.Errorf("left are %q, want %q", got, want)
		}
	})
}
