// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// https://kep.k8s.io/2570
func TestMemoryHigh(t *testing.T) {
	page := int64(os.Getpagesize())
	for _, c := range []struct {
		factor               float64
		request, limit, want int64
	}{
		{0, 0, 100 * page, 0},
		{0.9, 0, 100 * page, 90 * page},
		{0.9, 50 * page, 100 * page, 95 * page},
		{0.5, 1, 100 * page, 50 * page},
		{0.9, 100 * page, 100 * page, 0},      // it cannot be more
		{0.9, 100 * page, 100*page + page, 0}, // less than a page
		{0.9, 50 * page, 0, 0},
		{1, 50 * page, 100 * page, 100 * page},
	} {
		if got := (MemoryQoS{Factor: c.factor}).High(c.request, c.limit); got != c.want {
			t.Errorf("%v between %d and %d is %d, want %d", c.factor, c.request, c.limit, got, c.want)
		}
	}
}

func TestPodMemoryQoS(t *testing.T) {
	whole := burstable()
	whole.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("192Mi")}, Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}}
	guaranteed := burstable()
	guaranteed.Spec.Containers[0].Resources.Requests = guaranteed.Spec.Containers[0].Resources.Limits
	for _, c := range []struct {
		name string
		pod  *v1.Pod
		qos  MemoryQoS
		want Limits
	}{
		{"nothing asked for", burstable(), MemoryQoS{}, Limits{}},
		{"burstable", burstable(), MemoryQoS{Tiered: true, Factor: 0.5}, Limits{Protection: &Protection{Low: 64 << 20}}},
		{"guaranteed", guaranteed, MemoryQoS{Tiered: true, Factor: 0.5}, Limits{Protection: &Protection{Min: 128 << 20}}},
		{"best effort", &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}}}}, MemoryQoS{Tiered: true, Factor: 0.5}, Limits{}},
		{"pod with resources of its own", whole, MemoryQoS{Factor: 0.5}, Limits{MemoryHigh: 128 << 20}},
	} {
		tree := &Tree{cfg: Config{MemoryQoS: c.qos}}
		got := tree.PodLimits(c.pod)
		if got = (Limits{MemoryHigh: got.MemoryHigh, Protection: got.Protection}); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// What is protected in a pod is protected above it, too.
func TestProtectMemory(t *testing.T) {
	mount := t.TempDir()
	files(t, mount, map[string]string{"cgroup.controllers": "cpu memory\n", "cgroup.subtree_control": ""})
	tree, err := New(Config{Mount: mount, Root: "/", Driver: Cgroupfs, MemoryQoS: MemoryQoS{Tiered: true}})
	if err != nil {
		t.Fatal(err)
	}
	kernel := &recorder{t: t, mount: mount, unified: true}
	tree.kernel = kernel
	if err := tree.EnsureRoot(Limits{}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Ensure(burstable()); err != nil {
		t.Fatal(err)
	}
	if err := tree.ProtectMemory(1000, 64<<20); err != nil {
		t.Fatal(err)
	}
	kernel.asked = slices.DeleteFunc(kernel.asked, func(s string) bool { return !strings.Contains(s, "memory.min") && !strings.Contains(s, "memory.low") })
	want := []string{
		"/kubepods/burstable/pod0a1b-2c3d/memory.min = 0", "/kubepods/burstable/pod0a1b-2c3d/memory.low = 67108864",
		"/kubepods/memory.min = 67109864", "/kubepods/memory.low = 67108864", "/kubepods/burstable/memory.min = 0", "/kubepods/burstable/memory.low = 67108864",
	}
	if !slices.Equal(kernel.asked, want) {
		t.Errorf("the kernel was asked for\n%s", strings.Join(kernel.asked, "\n"))
	}
}

// A limit that an earlier process has set can be taken away.
func TestUnlimited(t *testing.T) {
	tree := &Tree{}
	v1Settings, v2Settings := tree.settingsV1(Limits{MemoryBytes: Unlimited, Pids: Unlimited}), tree.settingsV2(Limits{MemoryBytes: Unlimited, Pids: Unlimited})
	if want := []setting{{"memory", "memory.limit_in_bytes", "-1"}, {"pids", "pids.max", "max"}}; !slices.Equal(v1Settings, want) {
		t.Errorf("v1: %v, want %v", v1Settings, want)
	}
	if want := []setting{{"memory", "memory.max", "max"}, {"pids", "pids.max", "max"}}; !slices.Equal(v2Settings, want) {
		t.Errorf("v2: %v, want %v", v2Settings, want)
	}
}

// Pods that have CPUs for themselves may use them all the time.
func TestWithoutQuota(t *testing.T) {
	for _, without := range []bool{false, true} {
		tree := &Tree{cfg: Config{CPUPeriod: 100e6, WithoutQuota: func(*v1.Pod) bool { return without }}}
		if got := tree.PodLimits(burstable()).CPUQuota; (got == 0) != without {
			t.Errorf("without a quota: %v, it has one of %d", without, got)
		}
	}
}
