// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// A node that hears of a binding before the informer does is not told that the pod is somebody else's.
func TestBoundPod(t *testing.T) {
	at := func(name, node string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	}
	known := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	for _, p := range []*corev1.Pod{at("bound", "n1"), at("late", ""), at("other", "n2")} {
		if err := known.Add(p); err != nil {
			t.Fatal(err)
		}
	}
	n := &nodeRestriction{client: fake.NewClientset(at("late", "n1"), at("new", "n1"), at("other", "n1")), pods: corelisters.NewPodLister(known)}
	for name, want := range map[string]string{"bound": "n1", "late": "n1", "new": "n1", "other": "n2"} {
		if pod, err := n.boundPod(t.Context(), "ns", name); err != nil || pod.Spec.NodeName != want {
			t.Errorf("pod %s = %v, %v; want it on %s", name, pod, err, want)
		}
	}
}
