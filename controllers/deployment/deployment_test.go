// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/replicaset"
)

func newDeployment(replicas int32, image string) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge:       ptr.To(intstr.FromString("25%")),
					MaxUnavailable: ptr.To(intstr.FromString("25%")),
				},
			},
			RevisionHistoryLimit:    ptr.To[int32](10),
			ProgressDeadlineSeconds: ptr.To[int32](600),
		},
	}
}

// world is a cluster with the Deployment and ReplicaSet controllers.
type world struct {
	*controllertest.Cluster
	t *testing.T
}

func run(t *testing.T, d *appsv1.Deployment) *world {
	t.Helper()
	cluster := controllertest.New(t, d)
	dc, err := New(cluster.Clientset, cluster.Factory, cluster.Events)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := replicaset.New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Replicas)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Run(dc, rc)
	return &world{cluster, t}
}

func (w *world) get() *appsv1.Deployment {
	w.t.Helper()
	d, err := w.AppsV1().Deployments("default").Get(w.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) change(change func(*appsv1.Deployment)) {
	w.t.Helper()
	d := w.get()
	change(d)
	if _, err := w.AppsV1().Deployments("default").Update(w.t.Context(), d, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

func (w *world) setImage(image string) {
	w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

// sizes tells image and size of each ReplicaSet, by image: "v1:3 v2:1".
func (w *world) sizes() string {
	w.t.Helper()
	list, err := w.AppsV1().ReplicaSets("default").List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b appsv1.ReplicaSet) int {
		return cmp.Compare(a.Spec.Template.Spec.Containers[0].Image, b.Spec.Template.Spec.Containers[0].Image)
	})
	var sizes []string
	for _, set := range list.Items {
		sizes = append(sizes, fmt.Sprintf("%s:%d", set.Spec.Template.Spec.Containers[0].Image, *set.Spec.Replicas))
	}
	return strings.Join(sizes, " ")
}

func (w *world) settle() {
	w.t.Helper()
	for range 20 {
		w.StartPods()
		time.Sleep(time.Second)
		synctest.Wait()
	}
}

func (w *world) wantSizes(want string) {
	w.t.Helper()
	if got := w.sizes(); got != want {
		w.t.Fatalf("ReplicaSets are %q, want %q", got, want)
	}
}

func (w *world) wantProgress(status corev1.ConditionStatus, reason string) {
	w.t.Helper()
	d := w.get()
	c := condition(&d.Status, appsv1.DeploymentProgressing)
	if c == nil || c.Status != status || c.Reason != reason {
		w.t.Fatalf("Progressing is %+v, want %s with reason %s", c, status, reason)
	}
}

func TestRollingUpdateStaysInBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(4, "v1"))
		w.wantSizes("v1:4")
		if pods := w.Pods(); len(pods) != 4 {
			t.Fatalf("%d pods, want 4", len(pods))
		}
		w.settle()
		w.wantProgress(corev1.ConditionTrue, "NewReplicaSetAvailable")

		w.setImage("v2") // one more than 4 may exist, one of 4 may be unavailable
		w.wantSizes("v1:3 v2:2")
		w.StartPods()
		w.settle()
		w.wantSizes("v1:0 v2:4")
		d := w.get()
		if d.Status.UpdatedReplicas != 4 || d.Status.AvailableReplicas != 4 || d.Status.Replicas != 4 || d.Status.ObservedGeneration != d.Generation {
			t.Errorf("status is %+v", d.Status)
		}
		if got := d.Annotations[revisionAnnotation]; got != "2" {
			t.Errorf("revision is %q, want 2", got)
		}
	})
}

// "kubectl rollout undo" puts the old template back: its ReplicaSet becomes the newest revision.
func TestUndoReusesReplicaSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(2, "v1"))
		w.settle()
		w.setImage("v2")
		w.settle()
		w.setImage("v1")
		w.settle()
		w.wantSizes("v1:2 v2:0")
		sets, _ := w.AppsV1().ReplicaSets("default").List(t.Context(), metav1.ListOptions{})
		for _, set := range sets.Items {
			if set.Spec.Template.Spec.Containers[0].Image != "v1" {
				continue
			}
			if got := set.Annotations[revisionAnnotation] + " after " + set.Annotations[historyAnnotation]; got != "3 after 1" {
				t.Errorf("revision of v1 is %s, want 3 after 1", got)
			}
		}
	})
}

func TestRecreateStopsOldPodsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(2, "v1")
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		w := run(t, d)
		w.settle()
		// An old pod that takes its time: new ones must wait for it.
		pods := w.Pods()
		slow := pods[0]
		w.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			return action.(clienttesting.DeleteAction).GetName() == slow.Name && slow.Status.Phase != corev1.PodSucceeded, nil, nil
		})
		w.setImage("v2")
		w.settle()
		w.wantSizes("v1:0")
		slow.Status.Phase = corev1.PodSucceeded
		if err := w.CoreV1().Pods("default").Delete(t.Context(), slow.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.wantSizes("v1:0 v2:2")
	})
}

func TestPausedDeploymentOnlyScales(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(2, "v1"))
		w.settle()
		w.change(func(d *appsv1.Deployment) {
			d.Spec.Paused = true
			d.Spec.Template.Spec.Containers[0].Image = "v2"
			d.Spec.Replicas = ptr.To[int32](3)
		})
		w.settle()
		w.wantSizes("v1:3")
		w.wantProgress(corev1.ConditionUnknown, "DeploymentPaused")
		w.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		w.settle()
		w.wantSizes("v1:0 v2:3")
		w.wantProgress(corev1.ConditionTrue, "NewReplicaSetAvailable")
	})
}

func TestScalingDuringRolloutIsProportional(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(10, "v1")
		d.Spec.Strategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(3))
		d.Spec.Strategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(2))
		w := run(t, d)
		w.settle()
		w.setImage("bad") // its pods never start: the example of the documentation
		w.wantSizes("bad:5 v1:8")
		w.change(func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](15) })
		w.wantSizes("bad:7 v1:11")
	})
}

func TestProgressDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(1, "v1"))
		w.wantProgress(corev1.ConditionTrue, "ReplicaSetUpdated")
		time.Sleep(590 * time.Second)
		synctest.Wait()
		w.wantProgress(corev1.ConditionTrue, "ReplicaSetUpdated")
		time.Sleep(12 * time.Second)
		synctest.Wait()
		w.wantProgress(corev1.ConditionFalse, "ProgressDeadlineExceeded")
		w.settle()
		w.wantProgress(corev1.ConditionTrue, "NewReplicaSetAvailable")
	})
}

func TestHistoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(1, "v1")
		d.Spec.RevisionHistoryLimit = ptr.To[int32](1)
		w := run(t, d)
		for _, image := range []string{"v2", "v3", "v4"} {
			w.settle()
			w.setImage(image)
		}
		w.settle()
		w.wantSizes("v3:0 v4:1")
	})
}

func TestDeprecatedRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(1, "v1"))
		w.settle()
		w.setImage("v2")
		w.settle()
		w.change(func(d *appsv1.Deployment) { d.Annotations[appsv1.DeprecatedRollbackTo] = "0" })
		w.settle()
		w.wantSizes("v1:1 v2:0")
		if _, still := rollbackTo(w.get()); still {
			t.Error("the request to roll back is still there")
		}
	})
}

// A Deployment that is paused does not lose the ReplicaSet that it is to go back to.
func TestPausedDeploymentKeepsWhatItGoesBackTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(1, "v1"))
		w.settle()
		w.setImage("v2")
		w.settle()
		w.change(func(d *appsv1.Deployment) {
			d.Spec.Paused = true
			d.Spec.RevisionHistoryLimit = ptr.To[int32](0)
			d.Annotations[appsv1.DeprecatedRollbackTo] = "1"
		})
		w.settle()
		w.wantSizes("v1:0 v2:1")
		w.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		w.settle()
		w.wantSizes("v1:1")
	})
}

// That a Deployment was rolled back is told once, when it is true.
func TestRollbackIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newDeployment(1, "v1"))
		w.settle()
		w.setImage("v2")
		w.settle()
		refused := 0
		w.change(func(d *appsv1.Deployment) {
			d.Annotations[appsv1.DeprecatedRollbackTo] = "1"
			w.PrependReactor("update", "deployments", func(action clienttesting.Action) (bool, runtime.Object, error) {
				update := action.(clienttesting.UpdateAction).GetObject().(*appsv1.Deployment)
				if _, asked := rollbackTo(update); asked || action.GetSubresource() != "" || refused == 2 {
					return false, nil, nil
				}
				refused++
				return true, nil, apierrors.NewConflict(appsv1.Resource("deployments"), update.Name, errors.New("it has changed"))
			})
		})
		w.settle()
		w.wantSizes("v1:1 v2:0")
		told := 0
		for len(w.Events.Events) > 0 {
			if strings.Contains(<-w.Events.Events, "DeploymentRollback") {
				told++
			}
		}
		if refused != 2 || told != 1 {
			t.Errorf("%d updates were refused and the rollback was told %d times; want 2 and 1", refused, told)
		}
	})
}

func TestHashCollision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployment(1, "v1")
		stranger := &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: replicaSetName("web", podcontrol.TemplateHash(&d.Spec.Template, nil)), Namespace: "default"},
			Spec: appsv1.ReplicaSetSpec{
				Replicas: ptr.To[int32](0),
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}},
			},
		}
		cluster := controllertest.New(t, d, stranger)
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Run(c)
		w := &world{cluster, t}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := w.get().Status.CollisionCount; got == nil || *got != 1 {
			t.Fatalf("collision count is %v, want 1", got)
		}
		name := replicaSetName("web", podcontrol.TemplateHash(&d.Spec.Template, ptr.To[int32](1)))
		if _, err := w.AppsV1().ReplicaSets("default").Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func TestBounds(t *testing.T) {
	for _, tc := range []struct {
		replicas           int32
		surge, unavailable string
		wantSurge, wantUn  int32
	}{
		{10, "25%", "25%", 3, 2},
		{1, "25%", "25%", 1, 0},
		{2, "0%", "1%", 0, 1}, // rounds to 0 and 0, which could never move
		{4, "0", "100%", 0, 4},
		{0, "25%", "25%", 0, 0},
	} {
		d := newDeployment(tc.replicas, "x")
		d.Spec.Strategy.RollingUpdate.MaxSurge = ptr.To(intstr.Parse(tc.surge))
		d.Spec.Strategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.Parse(tc.unavailable))
		surge, unavailable := bounds(d)
		if surge != tc.wantSurge || unavailable != tc.wantUn {
			t.Errorf("bounds of %d with %s, %s = %d, %d; want %d, %d", tc.replicas, tc.surge, tc.unavailable, surge, unavailable, tc.wantSurge, tc.wantUn)
		}
	}
}

func TestAppendHistory(t *testing.T) {
	long := strings.Repeat("1234567,", 249) + "1234567" // 1999 characters
	for _, tc := range []struct{ history, revision, want string }{
		{"", "1", "1"},
		{"1", "3", "1,3"},
		{long, "99", strings.TrimPrefix(long, "1234567,") + ",99"},
	} {
		if got := appendHistory(tc.history, tc.revision); got != tc.want {
			t.Errorf("appendHistory(%.20q..., %q) = %.20q... (%d), want (%d)", tc.history, tc.revision, got, len(got), len(tc.want))
		}
	}
}
