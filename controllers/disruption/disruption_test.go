// SPDX-License-Identifier: Apache-2.0

package disruption

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.Time{Time: now.Add(-d)} }

func ready(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func deleted(pod *corev1.Pod) *corev1.Pod {
	pod.DeletionTimestamp = &metav1.Time{Time: now}
	return pod
}

func notReady(pod *corev1.Pod) *corev1.Pod {
	pod.Status.Conditions = nil
	return pod
}

func minAvailable(value string) policyv1.PodDisruptionBudgetSpec {
	return policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.Parse(value))}
}

func maxUnavailable(value string) policyv1.PodDisruptionBudgetSpec {
	return policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.Parse(value))}
}

func TestDesiredHealthy(t *testing.T) {
	for _, tc := range []struct {
		name     string
		spec     policyv1.PodDisruptionBudgetSpec
		expected int
		want     int
	}{
		{"none", policyv1.PodDisruptionBudgetSpec{}, 5, 0},
		{"a number", minAvailable("2"), 5, 2},
		{"more than there are", minAvailable("9"), 5, 9},
		{"a part, rounded up", minAvailable("30%"), 5, 2},
		{"all but a number", maxUnavailable("2"), 5, 3},
		{"all but more than there are", maxUnavailable("9"), 5, 0},
		{"all but a part, rounded up", maxUnavailable("30%"), 5, 3},
	} {
		if got, err := desiredHealthy(&tc.spec, tc.expected); got != tc.want || err != nil {
			t.Errorf("%s: %d, %v; want %d", tc.name, got, err, tc.want)
		}
	}
	spec := maxUnavailable("some")
	if _, err := desiredHealthy(&spec, 1); err == nil {
		t.Error("some is not a number")
	}
}

func TestCounts(t *testing.T) {
	pods := []*corev1.Pod{
		ready("stays"), notReady(ready("unwell")), deleted(ready("ends")), ready("evicted"), deleted(ready("evicted, ends")), ready("evicted long ago"),
	}
	still, overdue, next := stillDisrupted(pods, map[string]metav1.Time{
		"evicted": ago(time.Minute), "evicted, ends": ago(time.Minute), "evicted long ago": ago(time.Hour), "gone": ago(time.Second),
	}, now)
	if !slices.Equal(slices.Collect(maps.Keys(still)), []string{"evicted"}) || len(overdue) != 1 || overdue[0].Name != "evicted long ago" || next != time.Minute {
		t.Errorf("still %v, overdue %v, next %v", still, overdue, next)
	}
	if n := healthy(pods, still); n != 2 {
		t.Errorf("%d are healthy, want the one that stays and the one that was evicted long ago", n)
	}
}

func TestSetStatus(t *testing.T) {
	for _, tc := range []struct {
		expected, desired, healthy int
		allowed                    int32
		reason                     string
	}{
		{5, 3, 5, 2, policyv1.SufficientPodsReason},
		{5, 3, 3, 0, policyv1.InsufficientPodsReason},
		{5, 3, 1, 0, policyv1.InsufficientPodsReason},
		{0, 0, 1, 0, policyv1.InsufficientPodsReason},
	} {
		budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 7}}
		setStatus(budget, tc.expected, tc.desired, tc.healthy, nil)
		s := budget.Status
		if s.DisruptionsAllowed != tc.allowed || s.Conditions[0].Reason != tc.reason || s.ObservedGeneration != 7 || s.Conditions[0].ObservedGeneration != 7 {
			t.Errorf("%d of %d, %d wanted: %+v", tc.healthy, tc.expected, tc.desired, s)
		}
	}
}

func owned(name, kind, uid string) *corev1.Pod {
	pod := ready(name)
	apiVersion := map[string]string{"ReplicationController": "v1", "Custom": "example.com/v1"}[kind]
	if apiVersion == "" {
		apiVersion = "apps/v1"
	}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: "x", UID: types.UID(uid), Controller: ptr.To(true)}}
	return pod
}

func object(uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: "x", UID: types.UID(uid)}
}

func indexer(objs ...any) cache.Indexer {
	i := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, obj := range objs {
		if err := i.Add(obj); err != nil {
			panic(err)
		}
	}
	return i
}

func TestSum(t *testing.T) {
	ofDeployment := object("rs2")
	ofDeployment.Name = "y"
	ofDeployment.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "x", UID: "d", Controller: ptr.To(true)}}
	second := *ofDeployment.DeepCopy()
	second.Name, second.UID = "z", "rs3"
	s := &scales{
		controllers: corelisters.NewReplicationControllerLister(indexer(&corev1.ReplicationController{ObjectMeta: object("rc"), Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](1)}})),
		replicaSets: appslisters.NewReplicaSetLister(indexer(
			&appsv1.ReplicaSet{ObjectMeta: object("rs"), Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](10)}},
			&appsv1.ReplicaSet{ObjectMeta: ofDeployment, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3)}},
			&appsv1.ReplicaSet{ObjectMeta: second, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](3)}},
		)),
		deployments:  appslisters.NewDeploymentLister(indexer(&appsv1.Deployment{ObjectMeta: object("d"), Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](100)}})),
		statefulSets: appslisters.NewStatefulSetLister(indexer(&appsv1.StatefulSet{ObjectMeta: object("ss"), Spec: appsv1.StatefulSetSpec{Replicas: ptr.To[int32](1000)}})),
		subresource: func(_ context.Context, _ string, ref *metav1.OwnerReference) (*autoscalingv1.Scale, error) {
			switch ref.Kind {
			case "Custom":
				return &autoscalingv1.Scale{ObjectMeta: object("custom"), Spec: autoscalingv1.ScaleSpec{Replicas: 10000}}, nil
			case "DaemonSet":
				return nil, errors.New("DaemonSets have no scale")
			}
			return nil, nil
		},
	}
	of := func(name string, pod *corev1.Pod) *corev1.Pod {
		pod.OwnerReferences[0].Name = name
		return pod
	}
	for _, tc := range []struct {
		name string
		pods []*corev1.Pod
		want string
	}{
		{"none", nil, "0 false <nil>"},
		{"unmanaged", []*corev1.Pod{ready("a"), owned("b", "ReplicationController", "rc")}, "1 true <nil>"},
		{"each once", []*corev1.Pod{owned("a", "ReplicaSet", "rs"), owned("b", "ReplicaSet", "rs"), owned("c", "StatefulSet", "ss")}, "1010 false <nil>"},
		{"a Deployment with two ReplicaSets", []*corev1.Pod{of("y", owned("a", "ReplicaSet", "rs2")), of("z", owned("b", "ReplicaSet", "rs3"))}, "100 false <nil>"},
		{"a custom resource", []*corev1.Pod{owned("a", "Custom", "custom")}, "10000 false <nil>"},
		{"another of the same name", []*corev1.Pod{owned("a", "ReplicaSet", "other")}, `0 false found no controllers for pod "a"`},
		{"without a scale", []*corev1.Pod{owned("a", "DaemonSet", "ds")}, "0 false DaemonSets have no scale"},
	} {
		n, unmanaged, err := s.sum(t.Context(), tc.pods)
		if got := fmt.Sprint(n, unmanaged, err); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

func TestScalable(t *testing.T) {
	served := []metav1.APIResource{
		{Name: "widgets", Kind: "Widget"}, {Name: "widgets/status", Kind: "Widget"}, {Name: "widgets/scale", Kind: "Scale"}, {Name: "gadgets", Kind: "Gadget"},
	}
	if plural, ok := scalable(served, "Widget"); plural != "widgets" || !ok {
		t.Errorf("scalable(Widget) = %s, %t", plural, ok)
	}
	for _, kind := range []string{"Gadget", "Scale", "None"} {
		if _, ok := scalable(served, kind); ok {
			t.Errorf("%s is scalable", kind)
		}
	}
}

func TestStaleConditions(t *testing.T) {
	target := func(reason string) corev1.PodCondition {
		return corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.Now()}
	}
	synctest.Test(t, func(t *testing.T) {
		var pods []*corev1.Pod
		for _, reason := range []string{corev1.PodReasonTerminationByKubelet, "EvictionByEvictionAPI"} {
			pod := ready(map[bool]string{true: "kubelet", false: "api"}[reason == corev1.PodReasonTerminationByKubelet])
			pod.Status.Conditions = append(pod.Status.Conditions, target(reason))
			pods = append(pods, pod)
		}
		ended := ready("ended")
		ended.Status = corev1.PodStatus{Phase: corev1.PodFailed, Conditions: []corev1.PodCondition{target("")}}
		cluster := controllertest.New(t, pods[0], pods[1], ended)
		cluster.Run(NewStaleConditions(cluster.Clientset, cluster.Factory))
		isTarget := func() string {
			var names []string
			for _, pod := range cluster.Pods() {
				for _, c := range pod.Status.Conditions {
					if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
						names = append(names, pod.Name)
					}
				}
			}
			slices.Sort(names)
			return fmt.Sprint(names)
		}
		time.Sleep(staleAfter - time.Second)
		synctest.Wait()
		if got := isTarget(); got != "[api ended kubelet]" {
			t.Errorf("before: %s", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := isTarget(); got != "[ended kubelet]" {
			t.Errorf("after: %s", got)
		}
	})
}

// What an API server answers that is not well is asked again; that something is not there, or cannot be scaled, is so until
// something changes.
func TestPasses(t *testing.T) {
	gone := apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, "a")
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {errors.New("found no controllers for pod"), false}, {fmt.Errorf("get scale: %w", gone), false},
		{fmt.Errorf("get scale: %w", apierrors.NewInternalError(errors.New("etcd"))), true}, {apierrors.NewTooManyRequests("later", 1), true},
	} {
		if got := passes(tc.err); got != tc.want {
			t.Errorf("%v: %t, want %t", tc.err, got, tc.want)
		}
	}
}
