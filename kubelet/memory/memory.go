// SPDX-License-Identifier: Apache-2.0

// Package memory gives containers of Guaranteed pods memory on NUMA nodes of the machine (memoryManagerPolicy Static).
//
// What a container asks for of memory and huge pages is set aside on a set of nodes, and its processes take memory from there
// alone. A node is in one set at a time: memory that is taken from two nodes together must not be promised from one of them too.
// Who has what lies in a file in the kubelet's root. machine.go reads what nodes have.
// Reference: https://kubernetes.io/docs/tasks/administer-cluster/memory-manager/
package memory

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// Amounts are bytes by resource: memory, hugepages-2Mi, ...
type Amounts map[v1.ResourceName]int64

// Manager knows who has which memory. A nil Manager, for the policy "None", gives none to anybody.
type Manager struct {
	file  string
	nodes map[int]Amounts // what can be given

	mu    sync.Mutex
	given map[types.UID][]Share // guarded by mu
}

// Share is what one container of a pod has.
type Share struct {
	Container string  `json:"container"`
	Ends      bool    `json:"ends,omitempty"` // before the next one starts, which may have the same memory
	Blocks    []Block `json:"blocks"`
}

// Block is memory of one kind on some nodes together.
type Block struct {
	Nodes numa.Mask       `json:"nodes"`
	Type  v1.ResourceName `json:"type"`
	Size  int64           `json:"size"`
}

// New makes a Manager that keeps its state in the kubelet's root. What is reserved on a node is not given; together it has to be
// what the node keeps from pods.
func New(root string, machine, reserved map[int]Amounts, kept int64) (*Manager, error) {
	if err := checkReserved(machine, reserved, kept); err != nil {
		return nil, err
	}
	m := &Manager{file: filepath.Join(root, stateFile), nodes: map[int]Amounts{}, given: map[types.UID][]Share{}}
	for node, has := range machine {
		m.nodes[node] = maps.Clone(has)
	}
	for node, amounts := range reserved {
		for name, size := range amounts {
			if m.nodes[node][name] < size {
				return nil, fmt.Errorf("reservedMemory: NUMA node %d does not have %d bytes of %s", node, size, name)
			}
			m.nodes[node][name] -= size
		}
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w, please drain this node and delete the memory manager checkpoint file %s", err, m.file)
	}
	return m, nil
}

// check finds out whether what containers have is still on this machine, and not reserved by now.
func (m *Manager) check() error {
	used := map[Block]int64{} // by nodes and type, without a size
	for uid, shares := range m.given {
		mine := map[Block]bool{}
		for _, share := range shares {
			for _, b := range share.Blocks {
				switch {
				case b.Nodes&^m.all() != 0:
					return fmt.Errorf("(pod: %s, container: %s) the memory assignment uses the NUMA that does not exist", uid, share.Container)
				case m.total(b.Nodes, b.Type) == 0:
					return fmt.Errorf("(pod: %s, container: %s) the memory assignment uses memory resource that does not exist", uid, share.Container)
				}
				mine[Block{Nodes: b.Nodes, Type: b.Type}] = true
			}
		}
		for of := range mine {
			most, _ := usedOf(shares, of.Nodes, of.Type)
			if used[of] += most; used[of] > m.total(of.Nodes, of.Type) {
				return errors.New("the expected machine state is different from the real one")
			}
		}
	}
	return nil
}

func checkReserved(machine, reserved map[int]Amounts, kept int64) error {
	together, some := Amounts{v1.ResourceMemory: 0}, false
	for node, amounts := range reserved {
		if machine[node] == nil {
			return fmt.Errorf("the reserved memory configuration references a NUMA node %d that does not exist on this machine", node)
		}
		for name, size := range amounts {
			together[name] += size
			some = some || size > 0
		}
	}
	for _, name := range slices.Sorted(maps.Keys(together)) {
		want := map[v1.ResourceName]int64{v1.ResourceMemory: kept}[name] // no huge pages can be kept from pods
		if together[name] != want {
			text := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
			return fmt.Errorf("the total amount %q of type %q is not equal to the value %q determined by Node Allocatable feature", text(together[name]), name, text(want))
		}
	}
	if !some {
		return errors.New("you should specify the system reserved memory")
	}
	return nil
}

// CheckUnused makes sure that no container has memory of its own from an earlier process, when the policy is "None".
func CheckUnused(root string) error {
	s := state{}
	file := filepath.Join(root, stateFile)
	if err := checkpoint.Load(file, &s); err != nil {
		return fmt.Errorf("read assignments of memory in %s: %w", file, err)
	}
	if len(s.Given) > 0 {
		return fmt.Errorf("configured policy %q differs from state checkpoint policy %q, please drain this node and delete the memory manager checkpoint file %q before restarting", "None", s.Policy, file)
	}
	return nil
}

// Giving gives memory to the containers of one pod that is being admitted, in their order. Nothing is given before Commit. There
// can be one at a time.
type Giving struct {
	m      *Manager
	pod    types.UID
	shares []Share
}

// Begin begins to give. Of a nil Manager, and for a pod that is not Guaranteed or has resources as a whole, no container gets any.
func (m *Manager) Begin(pod *v1.Pod) *Giving {
	if m == nil || qos.GetPodQOS(pod) != v1.PodQOSGuaranteed || podresource.IsPodLevelResourcesSet(pod) {
		return nil
	}
	return &Giving{m: m, pod: pod.UID}
}

// Wants is what a container is to have.
func (g *Giving) Wants(c *v1.Container) Amounts {
	wants := Amounts{}
	if g == nil {
		return wants
	}
	for name, q := range c.Resources.Requests {
		if size := q.Value(); size > 0 && (name == v1.ResourceMemory || strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)) {
			wants[name] = size
		}
	}
	return wants
}

// Hints says on which nodes so much can be given.
func (g *Giving) Hints(name v1.ResourceName, size int64) numa.Hints {
	if g == nil || size == 0 {
		return nil
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	total := func(nodes numa.Mask) int { return int(g.m.total(nodes, name)) }
	free := func(nodes numa.Mask) int { return int(g.freeLocked(nodes, name)) }
	return numa.Possible(g.m.all(), int(size), total, free)
}

func (m *Manager) all() (all numa.Mask) {
	for node := range m.nodes {
		all |= numa.Of(node)
	}
	return all
}

func (m *Manager) total(nodes numa.Mask, name v1.ResourceName) (sum int64) {
	for node, has := range m.nodes {
		if nodes.Has(node) {
			sum += has[name]
		}
	}
	return sum
}

// freeLocked is what is left on some nodes, taken together; nothing if one of them belongs to another set. The caller holds mu.
func (g *Giving) freeLocked(nodes numa.Mask, name v1.ResourceName) int64 {
	used := int64(0)
	for _, shares := range g.m.given {
		size, fits := usedOf(shares, nodes, name)
		if !fits {
			return 0
		}
		used += size
	}
	if _, fits := usedOf(g.shares, nodes, name); !fits {
		return 0
	}
	stays := slices.DeleteFunc(slices.Clone(g.shares), func(s Share) bool { return s.Ends }) // the next container may have what the others had
	own, _ := usedOf(stays, nodes, name)
	return g.m.total(nodes, name) - used - own
}

// usedOf is the most that a pod uses of some nodes at any moment; they do not fit if it has memory of only some of them.
func usedOf(shares []Share, nodes numa.Mask, name v1.ResourceName) (most int64, fits bool) {
	var stays int64
	for _, share := range shares {
		now := stays
		for _, b := range share.Blocks {
			if b.Nodes&nodes != 0 && b.Nodes != nodes {
				return 0, false
			}
			if b.Nodes == nodes && b.Type == name {
				now += b.Size
			}
		}
		most = max(most, now)
		if !share.Ends {
			stays = now
		}
	}
	return most, true
}

// Give gives a container its memory: from near nodes if those have it, else from as few as do.
func (g *Giving) Give(c *v1.Container, ends bool, near numa.Mask) error {
	wants := g.Wants(c)
	if len(wants) == 0 {
		return nil
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	enough := func(nodes numa.Mask) bool {
		for name, size := range wants {
			if g.freeLocked(nodes, name) < size {
				return false
			}
		}
		return true
	}
	var best numa.Mask
	for _, nodes := range g.m.all().Subsets() {
		if enough(nodes) && (best == 0 || better(nodes, best, near)) {
			best = nodes
		}
	}
	if best == 0 {
		return errors.New("Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected") //nolint:staticcheck // upstream's words
	}
	share := Share{Container: c.Name, Ends: ends}
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		share.Blocks = append(share.Blocks, Block{Nodes: best, Type: name, Size: wants[name]})
	}
	g.shares = append(g.shares, share)
	return nil
}

// better prefers the near nodes, then sets that hold them, then small ones.
func better(nodes, than, near numa.Mask) bool {
	rank := func(m numa.Mask) int {
		switch {
		case near != 0 && m == near:
			return 0
		case near != 0 && m&near == near:
			return 1
		}
		return 2
	}
	if a, b := rank(nodes), rank(than); a != b {
		return a < b
	}
	return nodes.Count() < than.Count()
}

// Commit notes what was given.
func (g *Giving) Commit() error {
	if g == nil || len(g.shares) == 0 {
		return nil
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.given[g.pod] = g.shares
	return g.m.save()
}

// Of is what a container has.
func (m *Manager) Of(pod types.UID, container string) []Block {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, share := range m.given[pod] {
		if share.Container == container {
			return share.Blocks
		}
	}
	return nil
}

// Nodes are those of some blocks, as a list such as "0-1"; empty for none.
func Nodes(blocks []Block) string {
	var all numa.Mask
	for _, b := range blocks {
		all |= b.Nodes
	}
	return cpuset.New(all.List()...).String() // nodes are written as CPUs are
}

// Allocatable is all that can be given, by node.
func (m *Manager) Allocatable() []Block {
	if m == nil {
		return nil
	}
	var all []Block
	for _, node := range slices.Sorted(maps.Keys(m.nodes)) {
		for _, name := range slices.Sorted(maps.Keys(m.nodes[node])) {
			all = append(all, Block{Nodes: numa.Of(node), Type: name, Size: m.nodes[node][name]})
		}
	}
	return all
}

// Forget takes the memory of a pod back, once its containers have ended.
func (m *Manager) Forget(pod types.UID) error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.given[pod] == nil {
		return nil
	}
	delete(m.given, pod)
	return m.save()
}

const stateFile = "memory_manager_state"

// state is the file.
type state struct {
	Policy string                `json:"policyName"`
	Given  map[types.UID][]Share `json:"given"`
}

// save writes the file. The caller holds mu.
func (m *Manager) save() error {
	if err := checkpoint.Save(m.file, state{"Static", m.given}); err != nil {
		return fmt.Errorf("write assignments of memory: %w", err)
	}
	return nil
}

func (m *Manager) load() error {
	if err := checkpoint.Load(m.file, &state{Given: m.given}); err != nil {
		return fmt.Errorf("read assignments of memory in %s: %w", m.file, err)
	}
	return nil
}
