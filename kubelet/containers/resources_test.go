// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"maps"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLimitSwap(t *testing.T) {
	memory := func(text string) v1.ResourceList {
		if text == "" {
			return nil
		}
		return v1.ResourceList{v1.ResourceMemory: resource.MustParse(text)}
	}
	critical := int32(2_000_000_000)
	limited, none, old := Swap{Controlled: true, Unified: true, Limited: true, Capacity: 4 << 30}, Swap{Controlled: true, Unified: true, Capacity: 4 << 30}, Swap{Controlled: true, Limited: true, Capacity: 4 << 30}
	for _, c := range []struct {
		name           string
		swap           Swap
		asks, most     string
		priority       *int32
		unified        string // memory.swap.max
		memoryWithSwap int64
	}{
		{"burstable", limited, "1Gi", "2Gi", nil, "536870912", 0}, // an eighth of the memory, an eighth of the swap
		{"burstable without a limit", limited, "2Gi", "", nil, "1073741824", 0},
		{"critical", limited, "1Gi", "2Gi", &critical, "0", 0},
		{"guaranteed", limited, "1Gi", "1Gi", nil, "0", 0},
		{"best effort", limited, "", "", nil, "0", 0},
		{"more than there is", limited, "9Gi", "", nil, "0", 0},
		{"no swap", none, "1Gi", "2Gi", nil, "0", 0},
		{"cgroup v1", old, "1Gi", "2Gi", nil, "", 2 << 30},
		{"cgroup v1 without a limit", old, "1Gi", "", nil, "", 0},
		{"no control", Swap{Limited: true}, "1Gi", "2Gi", nil, "", 0},
	} {
		r := &Runtime{cfg: Config{MemoryCapacity: 8 << 30, Swap: c.swap}}
		pod := &v1.Pod{Spec: v1.PodSpec{Priority: c.priority, Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: memory(c.asks), Limits: memory(c.most)}}}}}
		out := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: pod.Spec.Containers[0].Resources.Limits.Memory().Value()}
		r.limitSwap(pod, &pod.Spec.Containers[0], out)
		if out.Unified["memory.swap.max"] != c.unified || out.MemorySwapLimitInBytes != c.memoryWithSwap {
			t.Errorf("%s: %v and %d, want %q and %d", c.name, out.Unified, out.MemorySwapLimitInBytes, c.unified, c.memoryWithSwap)
		}
	}
}

// All processes of a container end when its memory runs out, unless the node was told otherwise; swap does not depend on that.
func TestWholeOOMKill(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
	for _, c := range []struct {
		whole bool
		swap  Swap
		want  map[string]string
	}{
		{true, Swap{}, map[string]string{"memory.oom.group": "1"}},
		{true, Swap{Controlled: true, Unified: true}, map[string]string{"memory.oom.group": "1", "memory.swap.max": "0"}},
		{false, Swap{Controlled: true, Unified: true}, map[string]string{"memory.swap.max": "0"}},
		{false, Swap{}, nil},
	} {
		r := &Runtime{cfg: Config{WholeOOMKill: c.whole, Swap: c.swap}}
		if got := r.containerResources(pod, &pod.Spec.Containers[0]).Unified; !maps.Equal(got, c.want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
