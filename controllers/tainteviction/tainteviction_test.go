// SPDX-License-Identifier: Apache-2.0

package tainteviction

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

var taint = corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}

func tolerates(seconds *int64) corev1.Toleration {
	return corev1.Toleration{Key: taint.Key, Operator: corev1.TolerationOpExists, Effect: taint.Effect, TolerationSeconds: seconds}
}

func TestToleratedFor(t *testing.T) {
	other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoExecute}
	for _, tc := range []struct {
		what        string
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		want        time.Duration
		forever     bool
	}{
		{"no taint", nil, nil, 0, true},
		{"no toleration", []corev1.Taint{taint}, nil, 0, false},
		{"for ever", []corev1.Taint{taint}, []corev1.Toleration{tolerates(nil)}, 0, true},
		{"for a while", []corev1.Taint{taint}, []corev1.Toleration{tolerates(ptr.To[int64](300))}, 300 * time.Second, false},
		{"the first that matches counts", []corev1.Taint{taint}, []corev1.Toleration{tolerates(nil), tolerates(ptr.To[int64](3))}, 0, true},
		{"not at all", []corev1.Taint{taint}, []corev1.Toleration{tolerates(ptr.To[int64](-1))}, 0, false},
		{"one of two", []corev1.Taint{taint, other}, []corev1.Toleration{tolerates(nil)}, 0, false},
	} {
		got, forever := toleratedFor(klog.Background(), tc.taints, tc.tolerations)
		if got != tc.want || forever != tc.forever {
			t.Errorf("%s: %v, %t; want %v, %t", tc.what, got, forever, tc.want, tc.forever)
		}
	}
}

func TestEviction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := func(name string, tolerations ...corev1.Toleration) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: tolerations}}
		}
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
		cluster := controllertest.New(t, node, pod("at-once"), pod("later", tolerates(ptr.To[int64](300))), pod("never", tolerates(nil)))
		c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Taints)
		if err != nil {
			t.Fatal(err)
		}
		cluster.Run(c)
		setTaints := func(taints ...corev1.Taint) {
			t.Helper()
			node := node.DeepCopy()
			node.Spec.Taints = taints
			if _, err := cluster.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		want := func(n int) {
			t.Helper()
			if got := len(cluster.Pods()); got != n {
				t.Fatalf("%d pods, want %d", got, n)
			}
		}
		want(3)
		setTaints(taint)
		want(2)
		time.Sleep(299 * time.Second)
		setTaints() // just in time
		time.Sleep(time.Hour)
		synctest.Wait()
		want(2)
		setTaints(taint)
		time.Sleep(299 * time.Second)
		synctest.Wait()
		want(2)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want(1)
	})
}
