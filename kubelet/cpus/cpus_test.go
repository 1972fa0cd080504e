// SPDX-License-Identifier: Apache-2.0

package cpus

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// machine has two sockets with two cores of two threads each: CPU n and n+4 are on one core.
func machine() Topology {
	t := Topology{}
	for cpu := range 8 {
		t[cpu] = Place{Socket: cpu % 4 / 2, Core: cpu % 2}
	}
	return t
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		free  string
		count int
		want  string
	}{
		{"0-7", 4, "0-1,4-5"}, // a socket
		{"0-7", 2, "0,4"},     // a core
		{"0-7", 1, "0"},
		{"1-7", 2, "1,5"},   // not the half core
		{"1-7", 1, "4"},     // but the half core
		{"1-7", 3, "1,4-5"}, // a core and the half one
		{"1-7", 5, "2-3,4,6-7"},
		{"2,5", 2, "2,5"},
		{"2,5", 3, "2,5"},
	} {
		free, err := cpuset.Parse(c.free)
		if err != nil {
			t.Fatal(err)
		}
		want, err := cpuset.Parse(c.want)
		if err != nil {
			t.Fatal(err)
		}
		if got := machine().choose(free, c.count); !got.Equals(want) {
			t.Errorf("choose(%s, %d) = %s, want %s", c.free, c.count, got, want)
		}
	}
}

// allocate gives a pod what its containers ask for, near some CPUs.
func allocate(m *Manager, pod *v1.Pod, near ...int) error {
	g := m.Begin(pod)
	for i := range pod.Spec.InitContainers {
		if err := g.Give(&pod.Spec.InitContainers[i], true, cpuset.New(near...)); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := g.Give(&pod.Spec.Containers[i], false, cpuset.New(near...)); err != nil {
			return err
		}
	}
	return g.Commit()
}

// pod is Guaranteed, with containers of so many CPUs; those before | are init containers.
func pod(uid, cpus string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}
	init, main, both := strings.Cut(cpus, "|")
	if !both {
		init, main = "", cpus
	}
	containers := func(list string) (all []v1.Container) {
		for i, cpu := range strings.Fields(list) {
			r := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("1Mi")}
			all = append(all, v1.Container{Name: string(rune('a' + i)), Resources: v1.ResourceRequirements{Requests: r, Limits: r}})
		}
		return all
	}
	p.Spec.InitContainers, p.Spec.Containers = containers(init), containers(main)
	for i := range p.Spec.InitContainers {
		p.Spec.InitContainers[i].Name = "init-" + p.Spec.InitContainers[i].Name
	}
	return p
}

// CPUs are given, kept over a restart, and taken back; reserved ones are not given, and are shared.
func TestStatic(t *testing.T) {
	root := t.TempDir()
	if _, err := New(root, machine(), 0, cpuset.New(), Options{}); err == nil {
		t.Error("nothing is reserved, and that is accepted")
	}
	if _, err := New(root, machine(), 0, cpuset.New(99), Options{}); err == nil {
		t.Error("a CPU that is not there is reserved, and that is accepted")
	}
	start := func() *Manager {
		m, err := New(root, machine(), 1, cpuset.New(), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	has := func(m *Manager, uid, container, want string) {
		t.Helper()
		if got := m.Of(types.UID(uid), container).String(); got != want {
			t.Errorf("%s of %s has %s, want %s", container, uid, got, want)
		}
	}
	m := start()
	for uid, cpus := range map[string]string{"p1": "2 500m"} {
		if err := allocate(m, pod(uid, cpus)); err != nil {
			t.Fatal(err)
		}
	}
	has(m, "p1", "a", "1,5")
	has(m, "p1", "b", "0,2-4,6-7")
	if err := allocate(m, pod("p2", "6")); err == nil || !strings.Contains(err.Error(), "requested=6, available=5") {
		t.Errorf("more than there is: %v", err)
	}
	m = start()
	has(m, "p1", "a", "1,5")
	if err := allocate(m, pod("p3", "4|2 1")); err != nil { // the init container's are used again
		t.Fatal(err)
	}
	has(m, "p3", "init-a", "2-3,6-7")
	has(m, "p3", "a", "2,6")
	has(m, "p3", "b", "3")
	if err := m.Forget("p1"); err != nil {
		t.Fatal(err)
	}
	if err := allocate(m, pod("p4", "2 1")); err != nil {
		t.Fatal(err)
	}
	if m.Has("p1") || !m.Has("p4") {
		t.Error("who has CPUs of its own is forgotten")
	}
	var none *Manager
	if err := allocate(none, pod("p5", "1")); err != nil || none.Has("p5") {
		t.Error("the policy none gives CPUs")
	}
}

// What is asked for comes from near NUMA nodes, as far as they go.
func TestNear(t *testing.T) {
	m, err := New(t.TempDir(), machine(), 1, cpuset.New(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	nodes := numa.Nodes{0: cpuset.New(0, 1, 4, 5), 1: cpuset.New(2, 3, 6, 7)} // CPU 0 is reserved
	hints := func(count int) string { return fmt.Sprint(m.Begin(pod("p", "1")).Hints(count, nodes)) }
	if got := hints(4); got != "[{2 true} {3 false}]" {
		t.Errorf("Hints(4) = %s", got)
	}
	if got := hints(5); got != "[{3 true}]" {
		t.Errorf("Hints(5) = %s", got)
	}
	if err := allocate(m, pod("p1", "2"), 2, 3, 6, 7); err != nil {
		t.Fatal(err)
	}
	if got := m.Exclusive("p1", "a").String(); got != "2,6" {
		t.Errorf("two CPUs near the second node: %s", got)
	}
	if got := hints(3); got != "[{1 true} {3 false}]" {
		t.Errorf("Hints(3) = %s", got)
	}
	if err := allocate(m, pod("p2", "3"), 2, 3, 6, 7); err != nil {
		t.Fatal(err)
	}
	if got := m.Exclusive("p2", "a"); got.Intersection(nodes[1]).Size() != 2 || got.Size() != 3 {
		t.Errorf("three CPUs, of which two are near: %s", got)
	}
}

// Who has CPUs of his own has whole cores, if the operator wants that, and only who asks for them may run.
func TestWholeCores(t *testing.T) {
	m, err := New(t.TempDir(), machine(), 0, cpuset.New(0), Options{WholeCores: true, StrictReserved: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := allocate(m, pod("a", "2")); err != nil {
		t.Fatal(err)
	}
	if got := m.Of("a", "a"); !got.Equals(cpuset.New(1, 5)) {
		t.Errorf("the first pod has %s, want a core that has no reserved CPU", got)
	}
	for cpus, want := range map[string]string{
		"3": "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
		"6": "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 4, requested CPUs = 6, CPUs per core = 2",
	} {
		var misaligned *AlignmentError
		if err := allocate(m, pod("b", cpus)); !errors.As(err, &misaligned) || err.Error() != want {
			t.Errorf("%s CPUs: %v, want %s", cpus, err, want)
		}
	}
	if err := allocate(m, pod("b", "4")); err != nil {
		t.Fatal(err)
	}
	if got := m.Of("other", "a"); !got.Equals(cpuset.New(4)) { // neither what is given away nor what is reserved
		t.Errorf("the others share %s, want 4", got)
	}
}
