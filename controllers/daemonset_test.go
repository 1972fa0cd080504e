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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// wantDaemons runs pods until each node has the image, as in "a:v1 b:v1", and the status is right.
func (c *cluster) wantDaemons(name, want string, right func(*appsv1.DaemonSetStatus) bool) {
	c.t.Helper()
	c.eventually("DaemonSet with "+want, func(ctx context.Context) error {
		c.startPods("ns")
		set, err := c.AppsV1().DaemonSets("ns").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := c.pods(ctx, "ns")
		if err != nil {
			return err
		}
		slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Spec.NodeName, b.Spec.NodeName) })
		var have []string
		for _, pod := range pods {
			have = append(have, pod.Spec.NodeName+":"+pod.Spec.Containers[0].Image)
		}
		if got := strings.Join(have, " "); got != want || set.Status.ObservedGeneration != set.Generation || !right(&set.Status) {
			return fmt.Errorf("%s, status %+v", got, set.Status)
		}
		return nil
	})
}

func TestDaemonSet(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	taint := corev1.Taint{Key: "keep", Value: "out", Effect: corev1.TaintEffectNoSchedule}
	c.node("a", map[string]string{"zone": "x"})
	c.node("b", map[string]string{"zone": "x"}, taint)
	c.node("c", nil)
	labels := map[string]string{"app": "agent"}
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					NodeSelector:                  map[string]string{"zone": "x"},
					Containers:                    []corev1.Container{{Name: "c", Image: "v1"}},
					TerminationGracePeriodSeconds: ptr.To[int64](0),
				},
			},
		},
	}
	if _, err := c.AppsV1().DaemonSets("ns").Create(ctx, set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := func(patch string) {
		t.Helper()
		if _, err := c.AppsV1().DaemonSets("ns").Patch(ctx, "agent", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	scheduled := func(n int32) func(*appsv1.DaemonSetStatus) bool {
		return func(s *appsv1.DaemonSetStatus) bool {
			return s.DesiredNumberScheduled == n && s.CurrentNumberScheduled == n && s.NumberReady == n && s.NumberAvailable == n &&
				s.UpdatedNumberScheduled == n && s.NumberUnavailable == 0 && s.NumberMisscheduled == 0
		}
	}

	// Nodes come into question and go out of it.
	c.wantDaemons("agent", "a:v1", scheduled(1))
	node := func(name string, change func(*corev1.Node)) {
		t.Helper()
		c.eventually("node "+name+" is changed", func(ctx context.Context) error {
			node, err := c.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			change(node)
			_, err = c.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
			return err
		})
	}
	node("b", func(n *corev1.Node) {
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(have corev1.Taint) bool { return have.Key == taint.Key })
	})
	node("c", func(n *corev1.Node) { n.Labels = map[string]string{"zone": "x"} })
	c.wantDaemons("agent", "a:v1 b:v1 c:v1", scheduled(3))
	c.wantEvent("DaemonSet", "SuccessfulCreate", "Created pod: agent-")
	node("b", func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, taint) })
	c.wantDaemons("agent", "a:v1 b:v1 c:v1", func(s *appsv1.DaemonSetStatus) bool {
		return s.DesiredNumberScheduled == 2 && s.NumberMisscheduled == 1
	})
	node("c", func(n *corev1.Node) { n.Labels = nil })
	c.wantDaemons("agent", "a:v1 b:v1", func(s *appsv1.DaemonSetStatus) bool {
		return s.DesiredNumberScheduled == 1 && s.NumberMisscheduled == 1
	})
	patch(`{"spec":{"template":{"spec":{"nodeSelector":{"zone":null},"tolerations":[{"key":"keep","operator":"Exists"}]}}}}`)
	c.wantDaemons("agent", "a:v1 b:v1 c:v1", scheduled(3))

	// A new template: with the old pods gone first, with new ones first, and when somebody deletes the old ones.
	patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`)
	c.wantDaemons("agent", "a:v2 b:v2 c:v2", scheduled(3))
	patch(`{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":0,"maxSurge":"50%"}},"template":{"spec":{"containers":[{"name":"c","image":"v3"}]}}}}`)
	c.wantDaemons("agent", "a:v3 b:v3 c:v3", scheduled(3))
	patch(`{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null},"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}}`)
	c.wantDaemons("agent", "a:v3 b:v3 c:v3", func(s *appsv1.DaemonSetStatus) bool { return s.UpdatedNumberScheduled == 0 })
	if err := c.CoreV1().Pods("ns").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=agent"}); err != nil {
		t.Fatal(err)
	}
	c.wantDaemons("agent", "a:v2 b:v2 c:v2", scheduled(3))

	revisions, err := c.AppsV1().ControllerRevisions("ns").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int64
	for _, revision := range revisions.Items {
		numbers = append(numbers, revision.Revision)
		if revision.Name != "agent-"+revision.Labels["controller-revision-hash"] {
			t.Errorf("revision %s has labels %v", revision.Name, revision.Labels)
		}
	}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int64{1, 2, 4, 5}) { // the third template came back as the fifth
		t.Errorf("revisions have numbers %v", numbers)
	}
}

// A pod that failed makes room for another.
func TestDaemonSetReplacesFailedPods(t *testing.T) {
	c, ctx := newCluster(t), t.Context()
	c.namespace("ns")
	c.node("a", nil)
	labels := map[string]string{"app": "agent"}
	if _, err := c.AppsV1().DaemonSets("ns").Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}, TerminationGracePeriodSeconds: ptr.To[int64](0)},
			},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	first := c.active(1)[0]
	c.exit(&first, 1)
	c.eventually("a new pod", func(ctx context.Context) error {
		pods, err := c.pods(ctx, "ns")
		if err == nil && (len(pods) != 1 || pods[0].UID == first.UID) {
			err = fmt.Errorf("%d pods", len(pods))
		}
		return err
	})
	c.wantEvent("DaemonSet", "FailedDaemonPod", "Found failed daemon pod ns/"+first.Name)
}
