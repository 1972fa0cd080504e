// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

func newSet(replicas int32) *appsv1.ReplicaSet {
	labels := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}},
			},
		},
	}
}

func orphan(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: labels}}
}

func run(t *testing.T, objects ...runtime.Object) *controllertest.Cluster {
	t.Helper()
	cluster := controllertest.New(t, objects...)
	c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Replicas)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Run(c)
	return cluster
}

func getSet(t *testing.T, cluster *controllertest.Cluster) *appsv1.ReplicaSet {
	t.Helper()
	set, err := cluster.AppsV1().ReplicaSets("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestCreatesExactlyAsManyAsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newSet(30))
		if n := len(cluster.Pods()); n != 30 {
			t.Fatalf("%d pods, want 30", n)
		}
		cluster.StartPods()
		set := getSet(t, cluster)
		if set.Status.ReadyReplicas != 30 || set.Status.AvailableReplicas != 30 || *set.Status.TerminatingReplicas != 0 {
			t.Errorf("status is %+v", set.Status)
		}
		pod := cluster.Pods()[0]
		ref := metav1.GetControllerOf(&pod)
		if ref == nil || ref.UID != set.UID || !*ref.BlockOwnerDeletion || pod.GenerateName != "web-" {
			t.Errorf("pod's metadata is %+v", pod.ObjectMeta)
		}
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newSet(1), orphan("mine", map[string]string{"app": "web"}), orphan("other", map[string]string{"app": "db"}))
		pods := cluster.Pods()
		if len(pods) != 2 {
			t.Fatalf("%d pods, want the 2 there were", len(pods))
		}
		for _, pod := range pods {
			if owned := metav1.GetControllerOf(&pod) != nil; owned != (pod.Name == "mine") {
				t.Errorf("pod %s is owned: %t", pod.Name, owned)
			}
		}
		// Relabelled, it is released, and replaced.
		mine, _ := cluster.CoreV1().Pods("default").Get(t.Context(), "mine", metav1.GetOptions{})
		mine.Labels = map[string]string{"app": "debug"}
		if _, err := cluster.CoreV1().Pods("default").Update(t.Context(), mine, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mine, _ = cluster.CoreV1().Pods("default").Get(t.Context(), "mine", metav1.GetOptions{})
		if metav1.GetControllerOf(mine) != nil || len(cluster.Pods()) != 3 {
			t.Errorf("after relabelling: owner %v, %d pods", metav1.GetControllerOf(mine), len(cluster.Pods()))
		}
	})
}

func TestMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := newSet(1)
		set.Spec.MinReadySeconds = 10
		cluster := run(t, set)
		cluster.StartPods()
		if got := getSet(t, cluster).Status; got.ReadyReplicas != 1 || got.AvailableReplicas != 0 {
			t.Errorf("at once: %+v", got)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := getSet(t, cluster).Status; got.AvailableReplicas != 1 {
			t.Errorf("after 11s: %+v", got)
		}
	})
}

// A quota that is full makes one failed request, not a hundred, and a condition that says why.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.New(t, newSet(100))
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Replicas)
		if err != nil {
			t.Fatal(err)
		}
		requests := 0
		var full atomic.Bool
		full.Store(true)
		cluster.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			if full.Load() {
				requests++
				return true, nil, errors.New("exceeded quota")
			}
			return false, nil, nil
		})
		cluster.Run(c)
		if requests > 2 { // the condition, once written, makes it look again
			t.Errorf("%d requests before the first back-off, want 2 at most", requests)
		}
		conditions := getSet(t, cluster).Status.Conditions
		if len(conditions) != 1 || conditions[0].Type != appsv1.ReplicaSetReplicaFailure || conditions[0].Reason != "FailedCreate" {
			t.Errorf("conditions are %+v", conditions)
		}
		full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(cluster.Pods()); n != 100 {
			t.Errorf("%d pods, want 100", n)
		}
		if conditions := getSet(t, cluster).Status.Conditions; len(conditions) != 0 {
			t.Errorf("conditions are still %+v", conditions)
		}
	})
}

func TestDeletesLeastValuable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newSet(3))
		pods := cluster.Pods()
		cluster.SetReady(&pods[0], true)
		cluster.SetReady(&pods[1], false)
		cluster.SetReady(&pods[2], true)
		synctest.Wait()
		set := getSet(t, cluster)
		set.Spec.Replicas = ptr.To[int32](2)
		if _, err := cluster.AppsV1().ReplicaSets("default").Update(t.Context(), set, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for _, pod := range cluster.Pods() {
			if pod.Name == pods[1].Name {
				t.Error("the pod that was not ready is still there")
			}
		}
		if n := len(cluster.Pods()); n != 2 {
			t.Errorf("%d pods, want 2", n)
		}
	})
}

// Ages of pods that go are compared with that of the youngest; those that are not ready do not count.
func TestDeletionAgeRatios(t *testing.T) {
	now := time.Now()
	pod := func(age time.Duration, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-age))},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
		}
	}
	for what, tc := range map[string]struct {
		pods []*corev1.Pod
		want []float64
	}{
		"whole numbers":    {[]*corev1.Pod{pod(25*time.Second, corev1.ConditionTrue), pod(30*time.Second, corev1.ConditionTrue), pod(10*time.Second, corev1.ConditionTrue)}, []float64{2, 3}},
		"ready pods only":  {[]*corev1.Pod{pod(time.Second, corev1.ConditionFalse), pod(time.Minute, corev1.ConditionTrue), pod(time.Minute, corev1.ConditionTrue)}, []float64{1}},
		"none is ready":    {[]*corev1.Pod{pod(time.Second, corev1.ConditionFalse), pod(time.Second, corev1.ConditionFalse)}, nil},
		"a clock set back": {[]*corev1.Pod{pod(time.Second, corev1.ConditionTrue), pod(-time.Second, corev1.ConditionTrue)}, nil},
	} {
		if got := deletionAgeRatios(tc.pods, 2, now); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", what, got, tc.want)
		}
	}
}

// A pod that came and went while the watch was away is never seen. Its set waits for it, but not for ever.
func TestPodThatIsNeverSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.New(t, newSet(1))
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Replicas)
		if err != nil {
			t.Fatal(err)
		}
		var made atomic.Int32
		cluster.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			return made.Add(1) == 1, action.(clienttesting.CreateAction).GetObject(), nil
		})
		cluster.Run(c)
		time.Sleep(reconcile.ExpectationsTimeout - time.Minute)
		synctest.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("%d pods were made while the first may still be seen", n)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := len(cluster.Pods()); n != 1 {
			t.Errorf("there are %d pods, want 1", n)
		}
	})
}
