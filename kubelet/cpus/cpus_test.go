// SPDX-License-Identifier: Apache-2.0

package cpus

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// machine has two sockets, each a NUMA node with two cores of two threads: CPU n and n+4 are on one core.
func machine() Topology { return built(4, 2, 2, 2, 2) }

// built has cores of so many threads, of which all first ones come before all second ones, and so many cores behind one cache, on one
// NUMA node and in one socket.
func built(cores, threads, perCache, perNode, perSocket int) Topology {
	t := Topology{}
	for cpu := range cores * threads {
		core := cpu % cores
		t[cpu] = Place{Core: core, Cache: core / perCache, Node: core / perNode, Socket: core / perSocket}
	}
	return t
}

func set(t *testing.T, text string) cpuset.CPUSet {
	t.Helper()
	set, err := cpuset.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return set
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
		if got := machine().choose(set(t, c.free), c.count, Options{}); !got.Equals(set(t, c.want)) {
			t.Errorf("choose(%s, %d) = %s, want %s", c.free, c.count, got, c.want)
		}
	}
}

// The machines are those that upstream's cases have, and so are the results.
func TestChooseWithOptions(t *testing.T) {
	machines := map[string]Topology{
		"two nodes per socket": built(40, 2, 10, 10, 20),
		"large":                built(128, 2, 16, 16, 64),
		"caches":               built(64, 2, 4, 64, 64),
		"caches, one thread":   built(64, 1, 4, 64, 64),
		"sockets in one node":  built(8, 2, 4, 8, 4),
	}
	for _, c := range []struct {
		machine, options string
		free             string
		count            int
		want             string
	}{
		{"two nodes per socket", "", "0-79", 48, "0-19,40-59,20-23,60-63"}, // a socket, then cores
		{"two nodes per socket", "", "5-79", 20, "10-19,50-59"},            // a node
		{"sockets in one node", "", "1-15", 8, "4-7,12-15"},                // a socket

		{"two nodes per socket", "cores", "0-79", 4, "0-3"},
		{"two nodes per socket", "cores", "20-79", 4, "40-43"}, // the socket with the fewest first

		{"two nodes per socket", "numa", "0-79", 20, "0-9,40-49"}, // one node is enough
		{"two nodes per socket", "numa", "0-79", 64, "0-7,10-17,20-27,30-37,40-47,50-57,60-67,70-77"},
		{"two nodes per socket", "numa", "0-79", 48, "0-7,10-17,20-27,40-47,50-57,60-67"},
		{"two nodes per socket", "numa", "1-29,32-39,41-69,72-79", 48, "1-8,10-17,20-27,41-48,50-57,60-67"},
		{"two nodes per socket", "numa", "2-29,31-39,42-69,71-79", 48, "10-17,20-27,31-38,50-57,60-67,71-78"},
		{"two nodes per socket", "numa", "0-79", 26, "0-6,10-16,40-45,50-55"},
		{"two nodes per socket", "numa whole", "0-79", 26, "0-6,10-15,40-46,50-55"},
		{"two nodes per socket", "numa", "0-8,10-18,20-39,40-48,50-58,60-79", 62, "0-7,10-17,20-27,30-37,40-46,50-56,60-67,70-77"},
		{"two nodes per socket", "numa", "0-3,10-13,20-23,30-36,40-43,50-53,60-63,70-76", 34, "0-3,10-13,20-23,30-34,40-43,50-53,60-63,70-74"},
		{"two nodes per socket", "numa", "0-9,20-29", 30, "0-9,20-29"},           // there are not enough
		{"two nodes per socket", "numa", "0-1,10-19,50-59", 21, "0,10-19,50-59"}, // not evenly, but it goes
		{"two nodes per socket", "numa sockets", "0-9,40-49,10-19,20-29", 24, "0-6,10-19,40-46"},
		{"large", "numa", "0,128,30,31,158,159,43-47,171-175,62,63,190,191,75-79,203-207,94,96,222,223,101-111,229-239,126,127,254,255", 28, "43-47,75-79,96,101-105,171-174,203-206,229-232"},

		{"caches", "", "2-63,66-127", 8, "2-5,66-69"}, // cores that two caches serve
		{"caches", "caches", "2-63,66-127", 8, "4-7,68-71"},
		{"caches", "caches", "2-63,66-127", 4, "2-3,66-67"},
		{"caches", "caches", "2-63,66-127", 3, "2-3,66"},
		{"caches", "caches", "2-63,66-127", 12, "4-7,68-71,2-3,66-67"},   // a whole one, and what fits in another
		{"caches", "caches", "0-1,64-65,8-9,72-73", 6, "0-1,64-65,8,72"}, // no cache has so many
		{"caches, one thread", "caches", "0-63", 5, "0-3,4"},
	} {
		o := Options{
			AcrossCores: strings.Contains(c.options, "cores"), AcrossNodes: strings.Contains(c.options, "numa"), WholeCores: strings.Contains(c.options, "whole"),
			AlignCaches: strings.Contains(c.options, "caches"), AlignSockets: strings.Contains(c.options, "sockets"),
		}
		if got := machines[c.machine].choose(set(t, c.free), c.count, o); !got.Equals(set(t, c.want)) {
			t.Errorf("%s, %s: choose(%s, %d) = %s, want %s", c.machine, c.options, c.free, c.count, got, c.want)
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
	if _, err := New(root, machine(), 9, cpuset.New(), Options{}); err == nil {
		t.Error("more CPUs are reserved than there are, and that is accepted")
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
	if left, own := m.Use(); left != 5 || !maps.Equal(own, map[int]int{0: 2, 1: 0}) {
		t.Errorf("%d CPUs are left, and those of containers are %v by NUMA node", left, own)
	}
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
	second := cpuset.New(2, 3, 6, 7) // CPU 0 is reserved, which is on the first node
	hints := func(count int) string { return fmt.Sprint(m.Begin(pod("p", "1")).Hints(count)) }
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
	if got := m.Exclusive("p2", "a"); got.Intersection(second).Size() != 2 || got.Size() != 3 {
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

// What is near is in the same socket, if the operator wants that: NUMA nodes are preferred that need no more sockets than others.
func TestAlignSockets(t *testing.T) {
	four := built(8, 1, 2, 2, 4) // two sockets with two nodes of two CPUs each
	m, err := New(t.TempDir(), four, 1, cpuset.New(), Options{AlignSockets: true})
	if err != nil {
		t.Fatal(err)
	}
	g := m.Begin(pod("p", "1"))
	for _, h := range g.Hints(1) {
		if want := h.Nodes&^numa.Of(0, 1) == 0 || h.Nodes&^numa.Of(2, 3) == 0; h.Preferred != want {
			t.Errorf("nodes %v: preferred is %t", h.Nodes.List(), h.Preferred)
		}
	}
	if err := allocate(m, pod("p1", "3"), 2, 3); err != nil { // the node has two
		t.Fatal(err)
	}
	if got := m.Exclusive("p1", "a").String(); got != "1-3" {
		t.Errorf("three CPUs near a node with two: %s, want them in its socket", got)
	}
	if _, err := New(t.TempDir(), built(8, 1, 4, 8, 4), 1, cpuset.New(), Options{AlignSockets: true}); err == nil {
		t.Error("there are more sockets than NUMA nodes, and that is accepted")
	}
}

// What an init container had is used again, so that nothing far from it is offered.
func TestHintsHoldWhatIsUsedAgain(t *testing.T) {
	m, err := New(t.TempDir(), machine(), 1, cpuset.New(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod("p", "2|2")
	g := m.Begin(p)
	if err := g.Give(&p.Spec.InitContainers[0], true, cpuset.New(1, 5)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.Hints(2)); got != "[{1 true} {3 false}]" {
		t.Errorf("hints after an init container on the first node: %s", got)
	}
}

// Pods that have resources as a whole share CPUs, as long as upstream's gate for them is off.
func TestPodLevelResources(t *testing.T) {
	m, err := New(t.TempDir(), machine(), 1, cpuset.New(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := pod("p", "2")
	p.Spec.Resources = &p.Spec.Containers[0].Resources
	if err := allocate(m, p); err != nil || m.Has("p") {
		t.Errorf("a pod with resources of its own: %v, and it has CPUs: %t", err, m.Has("p"))
	}
}

// A start ends when CPUs were given from what is now reserved, or gone; without assignments nothing is at stake.
func TestStateOfAnotherMachine(t *testing.T) {
	root := t.TempDir()
	start := func(topology Topology, reserved int, o Options) error {
		_, err := New(root, topology, 0, cpuset.New(reserved), o)
		return err
	}
	m, err := New(root, machine(), 0, cpuset.New(0), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := allocate(m, pod("p", "2")); err != nil {
		t.Fatal(err)
	}
	smaller := machine()
	delete(smaller, 7)
	for want, err := range map[string]error{
		"":                                    start(machine(), 0, Options{}),
		`not all reserved cpus: "1" are`:      start(machine(), 1, Options{}),
		`some of strictly reserved cpus: "0"`: start(machine(), 0, Options{StrictReserved: true}),
		`current set of available CPUs "0-6" doesn't match with CPUs in state "0-7"`: start(smaller, 0, Options{}),
		`configured policy "none" differs from state checkpoint policy "static"`:     CheckUnused(root),
	} {
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := m.Forget("p"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(start(smaller, 1, Options{StrictReserved: true}), CheckUnused(root)); err != nil {
		t.Errorf("nobody has CPUs any more: %v", err)
	}
}

// The kernel tells of two sockets with two NUMA nodes each; a node has two caches of two cores with two threads.
func TestReadTopology(t *testing.T) {
	dir, nodes, want := t.TempDir(), numa.Nodes{}, built(16, 2, 2, 4, 8)
	write := func(file, format string, args ...any) {
		t.Helper()
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(fmt.Sprintf(format, args...)+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("online", "0-31")
	for cpu, is := range want {
		nodes[is.Node] = nodes[is.Node].Union(cpuset.New(cpu))
		of := fmt.Sprintf("cpu%d/", cpu)
		write(of+"topology/physical_package_id", "%d", is.Socket)
		write(of+"topology/core_id", "%d", is.Core%8) // within its socket
		first, both := is.Cache*2, is.Cache*2+1
		write(of+"cache/index0/level", "1")
		write(of+"cache/index0/shared_cpu_list", "%d,%d", is.Core, is.Core+16)
		write(of+"cache/index3/level", "3")
		write(of+"cache/index3/id", "%d", is.Cache)
		write(of+"cache/index3/shared_cpu_list", "%d-%d,%d-%d", first, both, first+16, both+16)
	}
	got, err := ReadTopology(dir, nodes)
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("ReadTopology = %v, %v; want %v", got, err, want)
	}
	if err := os.RemoveAll(filepath.Join(dir, "cpu3", "cache")); err != nil {
		t.Fatal(err)
	}
	got, err = ReadTopology(dir, nil) // without NUMA, and where a cache is not told of
	if err != nil || got[0].Node != 0 || got[31].Node != 1 || got[3].Cache != 0 {
		t.Errorf("without NUMA: %v, %v", got, err)
	}
}
