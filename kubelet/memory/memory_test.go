// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"fmt"
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

const (
	first, second, both = numa.Mask(1), numa.Mask(2), numa.Mask(3)
	giga                = 1 << 30
)

// machine has two nodes with 8 GiB each, of which the first keeps one.
func machine(t *testing.T, root string) *Manager {
	t.Helper()
	m, err := New(root, map[int]Amounts{0: {v1.ResourceMemory: 8 * giga}, 1: {v1.ResourceMemory: 8 * giga}}, map[int]Amounts{0: {v1.ResourceMemory: giga}}, giga)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pod is Guaranteed, with containers of so many GiB; those before | are init containers.
func pod(uid, sizes string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}
	init, main, both := strings.Cut(sizes, "|")
	if !both {
		init, main = "", sizes
	}
	containers := func(prefix, list string) (all []v1.Container) {
		for i, size := range strings.Fields(list) {
			r := v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse(size + "Gi")}
			all = append(all, v1.Container{Name: fmt.Sprint(prefix, i), Resources: v1.ResourceRequirements{Requests: r, Limits: r}})
		}
		return all
	}
	p.Spec.InitContainers, p.Spec.Containers = containers("init", init), containers("c", main)
	return p
}

func give(m *Manager, pod *v1.Pod, near numa.Mask) error {
	g := m.Begin(pod)
	for i := range pod.Spec.InitContainers {
		if err := g.Give(&pod.Spec.InitContainers[i], true, near); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := g.Give(&pod.Spec.Containers[i], false, near); err != nil {
			return err
		}
	}
	return g.Commit()
}

// Memory is given near to where it is wanted, kept over a restart, and taken back.
func TestGive(t *testing.T) {
	root := t.TempDir()
	m := machine(t, root)
	has := func(uid, container string, want numa.Mask) {
		t.Helper()
		blocks := m.Of(types.UID(uid), container)
		if len(blocks) != 1 || blocks[0].Nodes != want || blocks[0].Type != v1.ResourceMemory {
			t.Errorf("%s of %s has %v, want memory on %b", container, uid, blocks, want)
		}
	}
	hints := func(size int64) string { return fmt.Sprint(m.Begin(pod("p", "1")).Hints(v1.ResourceMemory, size*giga)) }
	if got := hints(8); got != "[{2 true} {3 false}]" { // the first has seven
		t.Errorf("Hints(8) = %s", got)
	}
	if err := give(m, pod("p1", "6|4 2"), second); err != nil { // the init container's is used again
		t.Fatal(err)
	}
	has("p1", "init0", second)
	has("p1", "c0", second)
	has("p1", "c1", second)
	if got := hints(3); got != "[{1 true}]" { // the second has two left, and belongs to no set of two
		t.Errorf("Hints(3) = %s", got)
	}
	if err := give(m, pod("p2", "3"), second); err != nil { // near is not enough
		t.Fatal(err)
	}
	has("p2", "c0", first)
	if err := give(m, pod("p3", "5"), 0); err == nil || !strings.Contains(err.Error(), "no NUMA nodes with enough memory") {
		t.Errorf("more than a node has: %v", err)
	}
	m = machine(t, root) // another process
	has("p1", "c0", second)
	for _, uid := range []types.UID{"p1", "p2"} {
		if err := m.Forget(uid); err != nil {
			t.Fatal(err)
		}
	}
	if err := give(m, pod("p4", "12"), 0); err != nil {
		t.Fatal(err)
	}
	has("p4", "c0", both)
	if got := hints(1); got != "[{3 false}]" { // both belong together now
		t.Errorf("Hints(1) = %s", got)
	}
}

func TestOthersGetNone(t *testing.T) {
	var none *Manager
	if err := give(none, pod("p1", "1"), 0); err != nil || none.Of("p1", "c0") != nil {
		t.Errorf("without a manager: %v", err)
	}
	m := machine(t, t.TempDir())
	burstable := pod("p1", "1")
	burstable.Spec.Containers[0].Resources.Limits = nil
	if err := give(m, burstable, 0); err != nil || m.Of("p1", "c0") != nil {
		t.Errorf("a burstable pod: %v, %v", m.Of("p1", "c0"), err)
	}
	if _, err := New(t.TempDir(), map[int]Amounts{0: {v1.ResourceMemory: 1}}, map[int]Amounts{0: {v1.ResourceMemory: 2}}, 2); err == nil {
		t.Error("more is reserved than there is")
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	for file, text := range map[string]string{
		"node0/meminfo": "Node 0 MemTotal:       8388608 kB\nNode 0 MemFree: 1 kB\n", "node0/hugepages/hugepages-2048kB/nr_hugepages": "512\n", "node0/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
	} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir, numa.Nodes{0: cpuset.New(0)})
	if err != nil || got[0][v1.ResourceMemory] != 7*giga || got[0]["hugepages-2Mi"] != giga {
		t.Errorf("Read = %v, %v", got, err)
	}
}

// What is reserved on the nodes has to be what the whole node keeps from pods.
func TestReserved(t *testing.T) {
	two := map[int]Amounts{0: {v1.ResourceMemory: 8 * giga, "hugepages-2Mi": giga}, 1: {v1.ResourceMemory: 8 * giga}}
	for want, reserved := range map[string]map[int]Amounts{
		"": {0: {v1.ResourceMemory: giga}, 1: {v1.ResourceMemory: giga}},
		`the total amount "1Gi" of type "memory" is not equal to the value "2Gi"`:      {0: {v1.ResourceMemory: giga}},
		`the total amount "1Gi" of type "hugepages-2Mi" is not equal to the value "0"`: {0: {v1.ResourceMemory: 2 * giga, "hugepages-2Mi": giga}},
		"references a NUMA node 2 that does not exist on this machine":                 {2: {v1.ResourceMemory: 2 * giga}},
	} {
		if _, err := New(t.TempDir(), two, reserved, 2*giga); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v, want %q", reserved, err, want)
		}
	}
	if _, err := New(t.TempDir(), two, nil, 0); err == nil || err.Error() != "you should specify the system reserved memory" {
		t.Errorf("nothing is reserved: %v", err)
	}
}

// Whoever has memory of his own keeps a process with another policy from starting.
func TestCheckUnused(t *testing.T) {
	root := t.TempDir()
	if err := CheckUnused(root); err != nil {
		t.Error(err)
	}
	m := machine(t, root)
	if err := give(m, pod("p", "1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := CheckUnused(root); err == nil || !strings.Contains(err.Error(), `configured policy "None" differs from state checkpoint policy "Static"`) {
		t.Errorf("with memory that is given: %v", err)
	}
	if err := m.Forget("p"); err != nil {
		t.Fatal(err)
	}
	if err := CheckUnused(root); err != nil {
		t.Error(err)
	}
}

func TestPodLevelResources(t *testing.T) {
	m, p := machine(t, t.TempDir()), pod("p", "1")
	p.Spec.Resources = &p.Spec.Containers[0].Resources
	if err := give(m, p, 0); err != nil || m.Of("p", "c0") != nil {
		t.Errorf("a pod with resources of its own: %v, %v", m.Of("p", "c0"), err)
	}
}

// A start ends when what containers have is gone from the machine, or reserved by now.
func TestOtherMachine(t *testing.T) {
	root := t.TempDir()
	m := machine(t, root)
	if err := give(m, pod("p", "6"), second); err != nil {
		t.Fatal(err)
	}
	all := func(first, second int64) map[int]Amounts {
		return map[int]Amounts{0: {v1.ResourceMemory: first * giga}, 1: {v1.ResourceMemory: second * giga}}
	}
	onFirst, onSecond := map[int]Amounts{0: {v1.ResourceMemory: giga}}, map[int]Amounts{1: {v1.ResourceMemory: giga}}
	for want, c := range map[string]struct{ machine, reserved map[int]Amounts }{
		"": {all(8, 8), onFirst},
		"(pod: p, container: c0) the memory assignment uses the NUMA that does not exist":              {map[int]Amounts{0: {v1.ResourceMemory: 8 * giga}}, onFirst},
		"(pod: p, container: c0) the memory assignment uses memory resource that does not exist":       {all(8, 1), onSecond},
		"the expected machine state is different from the real one, please drain this node and delete": {all(8, 6), onSecond},
	} {
		if _, err := New(root, c.machine, c.reserved, giga); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v, want %q", c.machine, err, want)
		}
	}
}
