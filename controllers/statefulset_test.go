// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func (c *cluster) node(name string, labels map[string]string, taints ...corev1.Taint) {
	c.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.NodeSpec{Taints: taints}}
	if _, err := c.CoreV1().Nodes().Create(c.t.Context(), node, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) statefulSet(name string, replicas int32, change func(*appsv1.StatefulSetSpec)) {
	c.t.Helper()
	labels := map[string]string{"app": name}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: name, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers:                    []corev1.Container{{Name: "c", Image: "v1"}},
					TerminationGracePeriodSeconds: ptr.To[int64](0),
				},
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				ObjectMeta: metav1.ObjectMeta{Name: "data"},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
				},
			}},
		},
	}
	change(&set.Spec)
	if _, err := c.AppsV1().StatefulSets("ns").Create(c.t.Context(), set, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) patchStatefulSet(name, patch string) {
	c.t.Helper()
	if _, err := c.AppsV1().StatefulSets("ns").Patch(c.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// images tells the image of each pod of the namespace, by name: "db-0:v1 db-1:v2".
func (c *cluster) images(ctx context.Context) (string, error) {
	pods, err := c.pods(ctx, "ns")
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	var images []string
	for _, pod := range pods {
		images = append(images, pod.Name+":"+pod.Spec.Containers[0].Image)
	}
	return strings.Join(images, " "), err
}

// startPod starts pods until this one runs.
func (c *cluster) startPod(name string) {
	c.t.Helper()
	c.eventually(name+" runs", func(ctx context.Context) error {
		pod, err := c.CoreV1().Pods("ns").Get(ctx, name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			c.startPods("ns")
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
}

// wantSet starts pods until the set's status is right and the pods have these images.
func (c *cluster) wantSet(name, images string, right func(*appsv1.StatefulSetStatus) bool) *appsv1.StatefulSet {
	c.t.Helper()
	var set *appsv1.StatefulSet
	c.eventually("StatefulSet with "+images, func(ctx context.Context) error {
		c.startPods("ns")
		var err error
		if set, err = c.AppsV1().StatefulSets("ns").Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		got, err := c.images(ctx)
		if err == nil && (got != images || set.Status.ObservedGeneration != set.Generation || !right(&set.Status)) {
			err = fmt.Errorf("%s, status %+v", got, set.Status)
		}
		return err
	})
	return set
}

func (c *cluster) wantClaims(want string) {
	c.t.Helper()
	c.eventually("claims "+want, func(ctx context.Context) error {
		claims, err := c.CoreV1().PersistentVolumeClaims("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var names []string
		for _, claim := range claims.Items {
			names = append(names, claim.Name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			return fmt.Errorf("%s", got)
		}
		return nil
	})
}

func TestStatefulSet(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.node("node", nil)
	c.statefulSet("db", 3, func(s *appsv1.StatefulSetSpec) {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
		}
	})

	// One after the other.
	for i, images := range []string{"db-0:v1", "db-0:v1 db-1:v1", "db-0:v1 db-1:v1 db-2:v1"} {
		c.eventually(images, func(ctx context.Context) error {
			if got, err := c.images(ctx); err != nil || got != images {
				return fmt.Errorf("%s, %v", got, err)
			}
			return nil
		})
		c.startPod(fmt.Sprintf("db-%d", i))
	}
	all := func(s *appsv1.StatefulSetStatus) bool {
		return s.Replicas == 3 && s.ReadyReplicas == 3 && s.AvailableReplicas == 3 && s.UpdatedReplicas == 3 && s.CurrentReplicas == 3 && s.CurrentRevision == s.UpdateRevision
	}
	first := c.wantSet("db", "db-0:v1 db-1:v1 db-2:v1", all).Status.CurrentRevision
	c.wantClaims("data-db-0 data-db-1 data-db-2")
	c.wantEvent("StatefulSet", "SuccessfulCreate", "Create Pod db-0 in StatefulSet db successful")
	c.wantEvent("StatefulSet", "SuccessfulCreate", "Create Claim data-db-2 Pod db-2 in StatefulSet db success")

	// A pod that is deleted comes back.
	before, err := c.CoreV1().Pods("ns").Get(ctx, "db-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CoreV1().Pods("ns").Delete(ctx, "db-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("db-1 is back", func(ctx context.Context) error {
		pod, err := c.CoreV1().Pods("ns").Get(ctx, "db-1", metav1.GetOptions{})
		if err == nil && pod.UID == before.UID {
			err = fmt.Errorf("it is still the old one")
		}
		return err
	})
	c.wantSet("db", "db-0:v1 db-1:v1 db-2:v1", all)

	// An update stops at the partition, and goes on without it.
	c.patchStatefulSet("db", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}},"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`)
	second := c.wantSet("db", "db-0:v1 db-1:v1 db-2:v2", func(s *appsv1.StatefulSetStatus) bool {
		return s.ReadyReplicas == 3 && s.CurrentReplicas == 2 && s.UpdatedReplicas == 1 && s.CurrentRevision == first && s.UpdateRevision != first
	}).Status.UpdateRevision
	c.patchStatefulSet("db", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	c.wantSet("db", "db-0:v2 db-1:v2 db-2:v2", func(s *appsv1.StatefulSetStatus) bool { return all(s) && s.CurrentRevision == second })

	// The way back is to the revision that was.
	c.patchStatefulSet("db", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v1"}]}}}}`)
	c.wantSet("db", "db-0:v1 db-1:v1 db-2:v1", func(s *appsv1.StatefulSetStatus) bool { return all(s) && s.CurrentRevision == first })
	revisions, err := c.AppsV1().ControllerRevisions("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(revisions.Items) != 2 {
		t.Fatalf("%d revisions, %v", len(revisions.Items), err)
	}
	for _, revision := range revisions.Items {
		if want := map[string]int64{first: 3, second: 2}[revision.Name]; revision.Revision != want {
			t.Errorf("%s has number %d, want %d", revision.Name, revision.Revision, want)
		}
	}

	// Pods that are not wanted go, and their claims with them.
	c.patchStatefulSet("db", `{"spec":{"replicas":1}}`)
	c.wantSet("db", "db-0:v1", func(s *appsv1.StatefulSetStatus) bool { return s.Replicas == 1 && s.ReadyReplicas == 1 })
	c.wantClaims("data-db-0")
	c.patchStatefulSet("db", `{"spec":{"ordinals":{"start":5},"replicas":2}}`)
	c.wantSet("db", "db-5:v1 db-6:v1", func(s *appsv1.StatefulSetStatus) bool { return s.Replicas == 2 && s.ReadyReplicas == 2 })
}

func TestParallelStatefulSet(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.node("node", nil)
	c.statefulSet("db", 4, func(s *appsv1.StatefulSetSpec) {
		s.PodManagementPolicy = appsv1.ParallelPodManagement
		s.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
		s.VolumeClaimTemplates = nil
	})
	c.wantPods("ns", 4) // none of them runs
	c.wantSet("db", "db-0:v1 db-1:v1 db-2:v1 db-3:v1", func(s *appsv1.StatefulSetStatus) bool { return s.ReadyReplicas == 4 })
	c.patchStatefulSet("db", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`)
	c.wantSet("db", "db-0:v1 db-1:v1 db-2:v1 db-3:v1", func(s *appsv1.StatefulSetStatus) bool { return s.UpdatedReplicas == 0 })
	if err := c.CoreV1().Pods("ns").Delete(ctx, "db-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.wantSet("db", "db-0:v1 db-1:v2 db-2:v1 db-3:v1", func(s *appsv1.StatefulSetStatus) bool { return s.UpdatedReplicas == 1 && s.ReadyReplicas == 4 })
	c.patchStatefulSet("db", `{"spec":{"replicas":0}}`)
	c.wantPods("ns", 0)
}
