// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, request string, priority int32) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Name: "c"}}}}
	if request != "" {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(request)}
	}
	return p
}

// "The kubelet uses the following parameters to determine the pod eviction order: whether the pod's resource usage exceeds
// requests, pod priority, the pod's resource usage relative to requests."
func TestRankByMemory(t *testing.T) {
	pods := []*v1.Pod{pod("modest", "1Gi", 0), pod("important", "", 1000), pod("greedy", "100Mi", 0), pod("greedier", "", 0), pod("unknown", "", 5000)}
	rank(pods, map[types.UID]*Usage{
		"modest": {Memory: 900 << 20}, "important": {Memory: 800 << 20}, "greedy": {Memory: 300 << 20}, "greedier": {Memory: 250 << 20},
	}, MemoryAvailable)
	var got []string
	for _, p := range pods {
		got = append(got, p.Name)
	}
	if want := []string{"unknown", "greedier", "greedy", "important", "modest"}; !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v", got, want)
	}
}

func TestVerdict(t *testing.T) {
	v := verdict(pod("web", "64Mi", 0), &Usage{Containers: map[string]ContainerUsage{"c": {Memory: 128 << 20}}}, MemoryAvailable, Threshold{Quantity: 100 << 20}, Observation{50 << 20, 1 << 30})
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 128Mi, request is 64Mi, has larger consumption of memory. "
	if v.Message != want || v.Annotations["offending_containers"] != "c" || v.Annotations["starved_resource"] != "memory" {
		t.Errorf("verdict = %+v, want %q", v, want)
	}
}

func TestMet(t *testing.T) {
	seen := map[Signal]Observation{
		MemoryAvailable: {99 << 20, 1 << 30}, NodeFSAvailable: {9, 100}, NodeFSInodesFree: {0, 0}, PIDAvailable: {1, 100},
	}
	if got, want := met(Defaults(), seen), []Signal{MemoryAvailable, NodeFSAvailable}; !slices.Equal(got, want) {
		t.Errorf("met = %v, want %v", got, want)
	}
}

func TestCritical(t *testing.T) {
	static := pod("static", "", 0)
	static.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	if !Critical(static) || !Critical(pod("system", "", systemCritical)) || Critical(pod("web", "", 1_000_000_000)) {
		t.Error("who is critical")
	}
}

// This machine can be read, and is not short of everything.
func TestObserve(t *testing.T) {
	seen := observe("/", "")
	for _, s := range []Signal{MemoryAvailable, NodeFSAvailable, PIDAvailable} {
		if o := seen[s]; o.Capacity <= 0 || o.Available > o.Capacity {
			t.Errorf("%s = %+v", s, o)
		}
	}
}
