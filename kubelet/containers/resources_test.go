// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"maps"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
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

// What a container requests is protected, and it is slowed down before it has all that it may have.
// https://kep.k8s.io/2570
func TestMemoryQoS(t *testing.T) {
	list := func(memory string) v1.ResourceList {
		if memory == "" {
			return nil
		}
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse(memory)}
	}
	both := cgroups.MemoryQoS{Tiered: true, Factor: 0.5}
	for _, c := range []struct {
		name            string
		qos             cgroups.MemoryQoS
		asks, most, pod string
		want            map[string]string
	}{
		{"nothing asked for", cgroups.MemoryQoS{}, "1Gi", "2Gi", "", nil},
		{"burstable", both, "1Gi", "2Gi", "", map[string]string{"memory.min": "0", "memory.low": "1073741824", "memory.high": "1610612736"}},
		{"burstable without a limit", both, "1Gi", "", "", map[string]string{"memory.min": "0", "memory.low": "1073741824", "memory.high": "2684354560"}},
		{"guaranteed", both, "1Gi", "1Gi", "", map[string]string{"memory.min": "1073741824", "memory.low": "0"}},
		{"best effort", both, "", "", "", map[string]string{"memory.high": "2147483648"}},
		{"in a pod with a limit", both, "1Gi", "", "3Gi", map[string]string{"memory.min": "0", "memory.low": "1073741824"}},
		{"only slowed down", cgroups.MemoryQoS{Factor: 0.5}, "1Gi", "2Gi", "", map[string]string{"memory.high": "1610612736"}},
	} {
		r := &Runtime{cfg: Config{MemoryQoS: c.qos, AllocatableMemory: 4 << 30}}
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: list(c.asks), Limits: list(c.most)}}}}}
		if c.pod != "" {
			pod.Spec.Resources = &v1.ResourceRequirements{Limits: list(c.pod), Requests: list(c.asks)}
		}
		if got := r.containerResources(pod, &pod.Spec.Containers[0]).Unified; !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// owner is a host where some containers have CPUs of their own.
type owner struct {
	Host
	owns bool
}

func (o owner) OwnCPUs(*v1.Pod, *v1.Container) bool { return o.owns }

// Who has CPUs for himself may use them all the time.
func TestOwnCPUsHaveNoQuota(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}}}}}}
	for owns, want := range map[bool]int64{false: 200000, true: -1} {
		r := &Runtime{cfg: Config{CPUCFSQuota: true, CPUCFSPeriod: 100 * time.Millisecond}, host: owner{owns: owns}}
		if got := r.containerResources(pod, &pod.Spec.Containers[0]); got.CpuQuota != want || got.CpuPeriod != 100000 {
			t.Errorf("with CPUs of its own (%v) it has a quota of %d, want %d", owns, got.CpuQuota, want)
		}
	}
}

// Containers that name no seccomp profile have the runtime's if the operator wants that.
func TestSeccompDefault(t *testing.T) {
	unconfined := &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}
	for _, c := range []struct {
		byDefault bool
		profile   *v1.SeccompProfile
		want      runtimeapi.SecurityProfile_ProfileType
	}{
		{false, nil, runtimeapi.SecurityProfile_Unconfined},
		{true, nil, runtimeapi.SecurityProfile_RuntimeDefault},
		{true, unconfined, runtimeapi.SecurityProfile_Unconfined},
	} {
		r := &Runtime{cfg: Config{SeccompDefault: c.byDefault}}
		if got, err := r.seccomp(c.profile); err != nil || got.ProfileType != c.want {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}
