// SPDX-License-Identifier: Apache-2.0

package allocation

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func asking(cpu string) *v1.Pod {
	requests := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: "web"}, Spec: v1.PodSpec{
		Resources:  &v1.ResourceRequirements{Requests: requests.DeepCopy()},
		Containers: []v1.Container{{Name: "app", Resources: v1.ResourceRequirements{Requests: requests}}},
	}}
}

// A pod that is being resized holds the larger of what it has and what it was granted, also for the next process.
func TestHeld(t *testing.T) {
	root := t.TempDir()
	s := New(root)
	holds := func(want string) {
		t.Helper()
		for of, s := range map[string]*Store{"this process": s, "the next": New(root)} {
			pod := s.Held(asking("7"))
			for what, r := range map[string]v1.ResourceList{"container": pod.Spec.Containers[0].Resources.Requests, "pod": pod.Spec.Resources.Requests} {
				if !r.Cpu().Equal(resource.MustParse(want)) {
					t.Errorf("%s: the %s holds %v, want %s", of, what, r.Cpu(), want)
				}
			}
		}
	}
	allocate := func(cpu string) {
		t.Helper()
		if err := s.Allocate(asking(cpu)); err != nil {
			t.Fatal(err)
		}
	}
	if s.Has("web") {
		t.Error("a pod that was granted nothing is known")
	}
	holds("7")
	allocate("2")
	holds("2")
	if !s.Has("web") || !New(root).Has("web") {
		t.Error("a pod that was granted something is not known")
	}
	allocate("1")
	holds("2")
	allocate("3")
	holds("3")
	if err := s.Actuate(asking("3"), true, "app"); err != nil {
		t.Fatal(err)
	}
	allocate("2")
	holds("3")
	if err := s.Actuate(asking("2"), true, "app"); err != nil {
		t.Fatal(err)
	}
	holds("2")
}
