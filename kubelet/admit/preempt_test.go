// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// requesting is a pod of a class ("best", "burst" or "guaranteed") that requests so much.
func requesting(class, name, cpu, memory string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{Containers: []v1.Container{{}}}}
	if class == "best" {
		return pod
	}
	list := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	pod.Spec.Containers[0].Resources.Requests = list
	if class == "guaranteed" {
		pod.Spec.Containers[0].Resources.Limits = list
	}
	return pod
}

func TestVictims(t *testing.T) {
	best, best2 := requesting("best", "best", "", ""), requesting("best", "best2", "", "")
	small, big := requesting("burst", "small", "100m", "100Mi"), requesting("burst", "big", "1", "1Gi")
	gold, golden := requesting("guaranteed", "gold", "100m", "100Mi"), requesting("guaranteed", "golden", "2", "2Gi")
	cpu := func(n int64) Shortage { return Shortage{v1.ResourceCPU, n} }
	memory := func(n int64) Shortage { return Shortage{v1.ResourceMemory, n << 20} }
	pods := Shortage{v1.ResourcePods, 1}
	for _, c := range []struct {
		name  string
		mayGo []*v1.Pod
		short []Shortage
		want  string
	}{
		{"nothing short", []*v1.Pod{best, small}, nil, ""},
		{"the smallest that will do", []*v1.Pod{big, small, gold}, []Shortage{cpu(50)}, "small"},
		{"the worse class, though more than needed", []*v1.Pod{big, gold}, []Shortage{cpu(50)}, "big"},
		{"one instead of two", []*v1.Pod{small, big}, []Shortage{cpu(150)}, "big"},
		{"both", []*v1.Pod{small, big}, []Shortage{cpu(1100)}, "big small"},
		{"the better class only for what is left", []*v1.Pod{small, big, gold, golden}, []Shortage{cpu(1150)}, "big small gold"},
		{"a place for one more pod", []*v1.Pod{golden, small, best, best2}, []Shortage{pods}, "best"},
		{"a place and CPU: who goes for the CPU gives its place", []*v1.Pod{best, golden}, []Shortage{pods, cpu(1000)}, "golden"},
		{"two resources", []*v1.Pod{small, big}, []Shortage{cpu(50), memory(500)}, "big"},
		{"too little in all", []*v1.Pod{best, small}, []Shortage{cpu(1000)}, "no set of running pods found to reclaim resources: [(res: cpu, q: 900), ]"},
	} {
		victims, err := Victims(c.mayGo, c.short)
		var names []string
		for _, v := range victims {
			names = append(names, v.Name)
		}
		got := strings.Join(names, " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// What is short is only told if nothing else keeps the pod away.
func TestShort(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("1"),
	}}}
	others := []*v1.Pod{requesting("burst", "other", "500m", "1Mi")}
	pod := requesting("burst", "p", "700m", "1Mi")
	if got, want := fmt.Sprint(Short(pod, node, others)), "[{pods 1} {cpu 200}]"; got != want {
		t.Errorf("short of %s, want %s", got, want)
	}
	pod.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	if got := Short(pod, node, others); !slices.Equal(got, nil) {
		t.Errorf("a pod that is for another node lacks %v here", got)
	}
}
