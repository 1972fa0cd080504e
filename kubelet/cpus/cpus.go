// SPDX-License-Identifier: Apache-2.0

// Package cpus gives containers of Guaranteed pods that ask for whole CPUs some of their own: the policy "static".
//
// All other containers share what is left. Some CPUs are reserved: they are never given away, and stay in the shared
// pool. Who has which lies in the file cpu_manager_state, so that a new process knows it. choose.go decides without I/O.
// Reference: https://kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies/
package cpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubectl/pkg/util/qos"
	"k8s.io/utils/cpuset"
)

// Manager knows who has which CPUs. A nil Manager, for the policy "none", gives none to anybody.
type Manager struct {
	file     string
	topology Topology
	reserved cpuset.CPUSet

	mu    sync.Mutex
	given map[types.UID]map[string]cpuset.CPUSet // guarded by mu: by pod and container
}

// New makes a Manager that keeps its state in the kubelet's root. count CPUs are reserved, unless it is said which.
func New(root string, topology Topology, count int, reserved cpuset.CPUSet) (*Manager, error) {
	if reserved.IsEmpty() {
		reserved = topology.choose(topology.all(), count)
	}
	if reserved.IsEmpty() {
		return nil, errors.New("the static CPU manager policy requires systemReserved.cpu + kubeReserved.cpu to be greater than zero")
	}
	if !reserved.IsSubsetOf(topology.all()) {
		return nil, fmt.Errorf("reserved CPUs %s are not all on this machine, which has %s", reserved, topology.all())
	}
	m := &Manager{file: filepath.Join(root, "cpu_manager_state"), topology: topology, reserved: reserved, given: map[types.UID]map[string]cpuset.CPUSet{}}
	return m, m.load()
}

// Allocate gives CPUs to the containers of a pod that is being admitted, all or none.
func (m *Manager) Allocate(pod *v1.Pod) error {
	if m == nil || qos.GetPodQOS(pod) != v1.PodQOSGuaranteed {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	given := map[string]cpuset.CPUSet{}
	free := m.sharedLocked().Difference(m.reserved)
	reusable := cpuset.New() // of init containers that will have ended
	give := func(c *v1.Container, ends bool) error {
		count := whole(c)
		if count == 0 {
			return nil
		}
		from := reusable
		if reusable.Size() < count {
			from = free.Union(reusable)
		}
		if from.Size() < count {
			return fmt.Errorf("Allocate failed due to not enough cpus available to satisfy request: requested=%d, available=%d, which is unexpected", count, from.Size()) //nolint:staticcheck // upstream's words
		}
		set := m.topology.choose(from, count)
		if reusable.Size() < count { // those are the first
			set = reusable.Union(m.topology.choose(free, count-reusable.Size()))
		}
		given[c.Name], free = set, free.Difference(set)
		if ends {
			reusable = reusable.Union(set)
		} else {
			reusable = reusable.Difference(set)
		}
		return nil
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if err := give(c, c.RestartPolicy == nil || *c.RestartPolicy != v1.ContainerRestartPolicyAlways); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := give(&pod.Spec.Containers[i], false); err != nil {
			return err
		}
	}
	if len(given) == 0 {
		return nil
	}
	m.given[pod.UID] = given
	return m.save()
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
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode assignments of CPUs: %w", err)
	}
	if err := os.WriteFile(m.file+".new", data, 0o600); err != nil {
		return fmt.Errorf("write assignments of CPUs: %w", err)
	}
	return os.Rename(m.file+".new", m.file)
}

func (m *Manager) load() error {
	data, err := os.ReadFile(m.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s state
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return fmt.Errorf("read assignments of CPUs in %s: %w", m.file, err)
	}
	for uid, containers := range s.Entries {
		m.given[uid] = map[string]cpuset.CPUSet{}
		for name, text := range containers {
			set, err := cpuset.Parse(text)
			if err != nil {
				return fmt.Errorf("read assignments of CPUs in %s: %w", m.file, err)
			}
			m.given[uid][name] = set
		}
	}
	return nil
}
