// SPDX-License-Identifier: Apache-2.0

// Package cpus gives containers of Guaranteed pods that ask for whole CPUs some of their own: the policy "static".
//
// All other containers share what is left. Some CPUs are reserved: they are never given away, and stay in the shared
// pool. Who has which lies in the file cpu_manager_state, so that a new process knows it. choose.go decides without I/O,
// spread.go too if several NUMA nodes are to give as many; topology.go reads the machine.
// Reference: https://kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies/
package cpus

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/checkpoint"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// Manager knows who has which CPUs. A nil Manager, for the policy "none", gives none to anybody.
type Manager struct {
	file     string
	topology Topology
	reserved cpuset.CPUSet
	options  Options

	mu    sync.Mutex
	given map[types.UID]map[string]cpuset.CPUSet // guarded by mu: by pod and container
}

// Options are those of the policy.
type Options struct {
	WholeCores     bool // full-pcpus-only: who has CPUs of his own has whole cores
	StrictReserved bool // strict-cpu-reservation: containers without CPUs of their own do not run on the reserved ones either
	AcrossNodes    bool // distribute-cpus-across-numa: where one NUMA node is not enough, several give as many
	AcrossCores    bool // distribute-cpus-across-cores: CPUs that share a core go to different containers, if that can be
	AlignCaches    bool // prefer-align-cpus-by-uncorecache: CPUs behind one cache go to the same container, if that can be
	AlignSockets   bool // align-by-socket: what is near is in the same socket, not only on the same NUMA node
}

// AlignmentError says why a container cannot have whole cores.
type AlignmentError struct {
	Requested, PerCore, Available int
	Short                         bool // there are not enough; else it does not ask for whole ones
}

// AlignmentReason is why its pod is refused then.
const AlignmentReason = "SMTAlignmentError"

func (e *AlignmentError) Error() string {
	if e.Short {
		return fmt.Sprintf("SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %d, requested CPUs = %d, CPUs per core = %d", e.Available, e.Requested, e.PerCore)
	}
	return fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", e.Requested, e.PerCore)
}

// New makes a Manager that keeps its state in the kubelet's root. count CPUs are reserved, unless it is said which.
func New(root string, topology Topology, count int, reserved cpuset.CPUSet, options Options) (*Manager, error) {
	if options.AlignSockets && topology.count(socket) > topology.count(node) {
		return nil, errors.New("Align by socket is not compatible with hardware where number of sockets are more than number of NUMA") //nolint:staticcheck // upstream's words
	}
	if reserved.IsEmpty() {
		reserved = topology.choose(topology.all(), count, options)
		if reserved.Size() != count {
			return nil, fmt.Errorf("unable to reserve the required amount of CPUs (size of %s did not equal %d)", reserved, count)
		}
	}
	if reserved.IsEmpty() {
		return nil, errors.New("the static CPU manager policy requires systemReserved.cpu + kubeReserved.cpu to be greater than zero")
	}
	if !reserved.IsSubsetOf(topology.all()) {
		return nil, fmt.Errorf("reserved CPUs %s are not all on this machine, which has %s", reserved, topology.all())
	}
	m := &Manager{file: filepath.Join(root, stateFile), topology: topology, reserved: reserved, options: options, given: map[types.UID]map[string]cpuset.CPUSet{}}
	return m, m.load()
}

// Giving gives CPUs to the containers of one pod that is being admitted, in their order. Nothing is given before Commit. There
// can be one at a time.
type Giving struct {
	m        *Manager
	pod      *v1.Pod
	given    map[string]cpuset.CPUSet
	free     cpuset.CPUSet
	reusable cpuset.CPUSet // of init containers that will have ended
}

// Begin begins to give. Of a nil Manager, and for a pod that is not Guaranteed or has resources as a whole, no container gets any.
func (m *Manager) Begin(pod *v1.Pod) *Giving {
	if m == nil || qos.GetPodQOS(pod) != v1.PodQOSGuaranteed || podresource.IsPodLevelResourcesSet(pod) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	free := m.sharedLocked().Difference(m.reserved)
	if m.options.WholeCores {
		free = m.topology.wholeCores(free)
	}
	return &Giving{m: m, pod: pod, given: map[string]cpuset.CPUSet{}, free: free, reusable: cpuset.New()}
}

// Wants is how many CPUs of its own a container is to have.
func (g *Giving) Wants(c *v1.Container) int {
	if g == nil {
		return 0
	}
	return whole(c)
}

// Hints says on which NUMA nodes so many CPUs can be given. What can be used again is, so that its nodes have to be among them.
func (g *Giving) Hints(count int) numa.Hints {
	if g == nil || count == 0 {
		return nil
	}
	t := g.m.topology
	total := func(m numa.Mask) int { return t.on(node, t.all(), m.List()...).Size() }
	free := func(m numa.Mask) int {
		if !g.reusable.IsSubsetOf(t.on(node, g.reusable, m.List()...)) {
			return 0
		}
		return t.on(node, g.free.Union(g.reusable), m.List()...).Size()
	}
	hints := numa.Possible(t.nodes(), count, total, free)
	if g.m.options.AlignSockets {
		t.preferSockets(hints, numa.Least(t.nodes(), count, total))
	}
	return hints
}

// Give gives a container its CPUs, of those that are near as far as they go. Those of one that ends can go to later ones too.
func (g *Giving) Give(c *v1.Container, ends bool, near cpuset.CPUSet) error {
	count := g.Wants(c)
	if count == 0 {
		return nil
	}
	if g.m.options.AlignSockets {
		near = g.m.topology.sockets(near)
	}
	from := g.free.Union(g.reusable)
	if perCore := g.m.topology.per(core); g.m.options.WholeCores && (count%perCore != 0 || from.Size() < count) {
		return &AlignmentError{Requested: count, PerCore: perCore, Available: from.Size(), Short: count%perCore == 0}
	}
	if from.Size() < count {
		return fmt.Errorf("Allocate failed due to not enough cpus available to satisfy request: requested=%d, available=%d, which is unexpected", count, from.Size()) //nolint:staticcheck // upstream's words
	}
	set := g.take(g.reusable, count, near)
	set = set.Union(g.take(g.free, count-set.Size(), near))
	g.given[c.Name], g.free = set, g.free.Difference(set)
	if ends {
		g.reusable = g.reusable.Union(set)
	} else {
		g.reusable = g.reusable.Difference(set)
	}
	return nil
}

// take picks up to so many CPUs, the near ones first.
func (g *Giving) take(from cpuset.CPUSet, count int, near cpuset.CPUSet) cpuset.CPUSet {
	t, o := g.m.topology, g.m.options
	set := t.choose(from.Intersection(near), min(count, from.Intersection(near).Size()), o)
	return set.Union(t.choose(from.Difference(set), min(count-set.Size(), from.Difference(set).Size()), o))
}

// OneCache says whether the CPUs that were given to a container are behind one cache.
func (g *Giving) OneCache(c *v1.Container) bool {
	return len(g.m.topology.split(g.given[c.Name].List(), cache)) == 1
}

// Commit notes what was given.
func (g *Giving) Commit() error {
	if g == nil || len(g.given) == 0 {
		return nil
	}
	g.m.mu.Lock()
	defer g.m.mu.Unlock()
	g.m.given[g.pod.UID] = g.given
	return g.m.save()
}

// whole is how many CPUs of its own a container is to have.
func whole(c *v1.Container) int {
	q := c.Resources.Requests[v1.ResourceCPU]
	if q.MilliValue()%1000 != 0 {
		return 0
	}
	return int(q.Value())
}

// Of are the CPUs that a container may use.
func (m *Manager) Of(pod types.UID, container string) cpuset.CPUSet {
	m.mu.Lock()
	defer m.mu.Unlock()
	if own, has := m.given[pod][container]; has {
		return own
	}
	return m.sharedLocked()
}

func (m *Manager) sharedLocked() cpuset.CPUSet {
	shared := m.topology.all()
	if m.options.StrictReserved {
		shared = shared.Difference(m.reserved)
	}
	for _, containers := range m.given {
		for _, set := range containers {
			shared = shared.Difference(set)
		}
	}
	return shared
}

// Exclusive are the CPUs that a container has for itself.
func (m *Manager) Exclusive(pod types.UID, container string) cpuset.CPUSet {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.given[pod][container]
}

// Use counts the CPUs that can still be given, and those that containers have for themselves, by NUMA node; none is there, too.
func (m *Manager) Use() (left int, own map[int]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	own = map[int]int{}
	for _, n := range m.topology.nodes().List() {
		own[n] = 0
	}
	shared := m.sharedLocked()
	for _, cpu := range m.topology.all().Difference(shared).Difference(m.reserved).UnsortedList() {
		own[m.topology[cpu].Node]++
	}
	return shared.Difference(m.reserved).Size(), own
}

// Allocatable are all that containers can have for themselves.
func (m *Manager) Allocatable() cpuset.CPUSet { return m.topology.all().Difference(m.reserved) }

// Has says whether a pod has CPUs of its own.
func (m *Manager) Has(pod types.UID) bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.given[pod] != nil
}

// Forget takes the CPUs of a pod back, once its containers have ended.
func (m *Manager) Forget(pod types.UID) error {
	if !m.Has(pod) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.given, pod)
	return m.save()
}

const stateFile = "cpu_manager_state"

// state is the file, in upstream's form.
type state struct {
	Policy  string                          `json:"policyName"`
	Default string                          `json:"defaultCpuSet"`
	Entries map[types.UID]map[string]string `json:"entries,omitempty"`
}

// save writes the file. The caller holds mu.
func (m *Manager) save() error {
	s := state{Policy: "static", Default: m.sharedLocked().String(), Entries: map[types.UID]map[string]string{}}
	for uid, containers := range m.given {
		s.Entries[uid] = map[string]string{}
		for name, set := range containers {
			s.Entries[uid][name] = set.String()
		}
	}
	if err := checkpoint.Save(m.file, s); err != nil {
		return fmt.Errorf("write assignments of CPUs: %w", err)
	}
	return nil
}

func (m *Manager) load() error {
	s, err := read(m.file)
	if err != nil {
		return err
	}
	shared, err := cpuset.Parse(s.Default)
	if err != nil {
		return fmt.Errorf("read assignments of CPUs in %s: %w", m.file, err)
	}
	for uid, containers := range s.Entries {
		m.given[uid] = map[string]cpuset.CPUSet{}
		for name, text := range containers {
			if m.given[uid][name], err = cpuset.Parse(text); err != nil {
				return fmt.Errorf("read assignments of CPUs in %s: %w", m.file, err)
			}
		}
	}
	if len(m.given) == 0 { // nobody is hurt by what is different now
		return nil
	}
	if err := m.check(shared); err != nil {
		return fmt.Errorf("%w, please drain node and remove policy state file %s", err, m.file)
	}
	return nil
}

func read(file string) (s state, err error) {
	if err := checkpoint.Load(file, &s); err != nil {
		return s, fmt.Errorf("read assignments of CPUs in %s: %w", file, err)
	}
	return s, nil
}

// check finds out whether the machine and what is reserved of it are still those with which CPUs were given. shared are those that
// were not.
func (m *Manager) check(shared cpuset.CPUSet) error {
	reserved, all := m.reserved.Intersection(shared), m.topology.all()
	if m.options.StrictReserved {
		all = all.Difference(m.reserved)
	}
	known := shared
	for uid, containers := range m.given {
		for name, set := range containers {
			if !set.Intersection(shared).IsEmpty() {
				return fmt.Errorf("pod: %s, container: %s cpuset: %q overlaps with default cpuset %q", uid, name, set, shared)
			}
			known = known.Union(set)
		}
	}
	switch {
	case shared.IsEmpty():
		return errors.New("default cpuset cannot be empty")
	case m.options.StrictReserved && !reserved.IsEmpty():
		return fmt.Errorf("some of strictly reserved cpus: %q are present in defaultCpuSet: %q", reserved, shared)
	case !m.options.StrictReserved && !reserved.Equals(m.reserved):
		return fmt.Errorf("not all reserved cpus: %q are present in defaultCpuSet: %q", m.reserved, shared)
	case !known.Equals(all):
		return fmt.Errorf("current set of available CPUs %q doesn't match with CPUs in state %q", all, known)
	}
	return nil
}

// CheckUnused makes sure that no container has CPUs of its own from an earlier process, when the policy is "none".
func CheckUnused(root string) error {
	file := filepath.Join(root, stateFile)
	s, err := read(file)
	if err == nil && len(s.Entries) > 0 {
		err = fmt.Errorf("configured policy %q differs from state checkpoint policy %q, please drain this node and delete the CPU manager checkpoint file %q before restarting", "none", s.Policy, file)
	}
	return err
}
