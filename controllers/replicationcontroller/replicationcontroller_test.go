// SPDX-License-Identifier: Apache-2.0

package replicationcontroller

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func newController(replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"app": "web"}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas,
			Selector: labels,
			Template: &corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}},
			},
		},
	}
}

func run(t *testing.T, cluster *controllertest.Cluster) {
	t.Helper()
	c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Replicas)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Run(c)
}

func get(t *testing.T, cluster *controllertest.Cluster) *corev1.ReplicationController {
	t.Helper()
	rc, err := cluster.CoreV1().ReplicationControllers("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rc
}

func update(t *testing.T, cluster *controllertest.Cluster, change func(*corev1.ReplicationController)) {
	t.Helper()
	rc := get(t, cluster)
	change(rc)
	if _, err := cluster.CoreV1().ReplicationControllers("default").Update(t.Context(), rc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestKeepsTheNumberOfPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: "default", Labels: map[string]string{"app": "web"}}}
		cluster := controllertest.New(t, newController(3), orphan)
		run(t, cluster)
		cluster.StartPods()
		rc := get(t, cluster)
		if s := rc.Status; s.Replicas != 3 || s.ReadyReplicas != 3 || s.AvailableReplicas != 3 || s.FullyLabeledReplicas != 3 || s.ObservedGeneration != rc.Generation {
			t.Errorf("status is %+v", s)
		}
		pods := cluster.Pods()
		if len(pods) != 3 {
			t.Fatalf("%d pods, want 3 with the one that was there", len(pods))
		}
		for _, pod := range pods {
			ref := metav1.GetControllerOf(&pod)
			if ref == nil || ref.APIVersion != "v1" || ref.Kind != "ReplicationController" || ref.UID != rc.UID {
				t.Errorf("the owner of %s is %+v", pod.Name, ref)
			}
		}

		if err := cluster.CoreV1().Pods("default").Delete(t.Context(), "orphan", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(cluster.Pods()); n != 3 {
			t.Errorf("%d pods after one was deleted", n)
		}
		one := int32(1)
		update(t, cluster, func(rc *corev1.ReplicationController) { rc.Spec.Replicas = &one })
		if n := len(cluster.Pods()); n != 1 {
			t.Errorf("%d pods, want 1", n)
		}
		if s := get(t, cluster).Spec; *s.Replicas != 1 || s.Selector["app"] != "web" || s.Template == nil {
			t.Errorf("writing the status changed the spec: %+v", s)
		}
	})
}

// A quota that is full is told of by a condition, until it is not.
func TestReplicaFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.New(t, newController(2))
		var full atomic.Bool
		full.Store(true)
		cluster.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			if full.Load() {
				return true, nil, errors.New("exceeded quota")
			}
			return false, nil, nil
		})
		run(t, cluster)
		conditions := get(t, cluster).Status.Conditions
		if len(conditions) != 1 || conditions[0].Type != corev1.ReplicationControllerReplicaFailure || conditions[0].Reason != "FailedCreate" ||
			conditions[0].Status != corev1.ConditionTrue || conditions[0].Message != "exceeded quota" || conditions[0].LastTransitionTime.IsZero() {
			t.Errorf("conditions are %+v", conditions)
		}
		full.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n, conditions := len(cluster.Pods()), get(t, cluster).Status.Conditions; n != 2 || len(conditions) != 0 {
			t.Errorf("%d pods, conditions %+v", n, conditions)
		}
	})
}

// A pod whose labels change is not counted any more, and belongs to nobody.
func TestReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := controllertest.New(t, newController(1))
		run(t, cluster)
		pod := cluster.Pods()[0]
		pod.Labels = map[string]string{"app": "debug"}
		if _, err := cluster.CoreV1().Pods("default").Update(t.Context(), &pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		owned := 0
		for _, p := range cluster.Pods() {
			if metav1.GetControllerOf(&p) != nil {
				owned++
			} else if p.Name != pod.Name {
				t.Errorf("%s has no owner", p.Name)
			}
		}
		if owned != 1 || len(cluster.Pods()) != 2 {
			t.Errorf("%d of %d pods are owned", owned, len(cluster.Pods()))
		}
	})
}

// Nothing is lost on the way to a ReplicaSet and back.
func TestThereAndBack(t *testing.T) {
	rc := newController(3)
	rc.UID, rc.Generation, rc.Spec.MinReadySeconds = "uid", 7, 5
	rc.Status = corev1.ReplicationControllerStatus{
		Replicas: 1, FullyLabeledReplicas: 2, ReadyReplicas: 3, AvailableReplicas: 4, ObservedGeneration: 5,
		Conditions: []corev1.ReplicationControllerCondition{{
			Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), Reason: "r", Message: "m",
		}},
	}
	if back := asReplicationController(asReplicaSet(rc)); !apiequality.Semantic.DeepEqual(back, rc) {
		t.Errorf("%+v came back as %+v", rc, back)
	}
	bare := &corev1.ReplicationController{} // none of what the API server fills in
	if set := asReplicaSet(bare); !apiequality.Semantic.DeepEqual(set.Spec, appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{}}) {
		t.Errorf("a bare one is %+v", set.Spec)
	}
}
