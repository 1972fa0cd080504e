// SPDX-License-Identifier: Apache-2.0

package cpus

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// Topology says of each CPU on which core and socket it is.
type Topology map[int]Place

// Place is where a CPU is. Cores are numbered within their socket.
type Place struct{ Socket, Core int }

// ReadTopology reads that of the CPUs that are online; dir is /sys/devices/system/cpu.
func ReadTopology(dir string) (Topology, error) {
	data, err := os.ReadFile(filepath.Join(dir, "online"))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs there are: %w", err)
	}
	online, err := cpuset.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs there are: %w", err)
	}
	t := Topology{}
	for _, cpu := range online.List() {
		place := func(file string, otherwise int) int { // a virtual machine may not tell
			data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("cpu%d", cpu), "topology", file))
			if err != nil {
				return otherwise
			}
			n, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				return otherwise
			}
			return n
		}
		t[cpu] = Place{place("physical_package_id", 0), place("core_id", cpu)}
	}
	return t, nil
}

func (t Topology) all() cpuset.CPUSet {
	all := make([]int, 0, len(t))
	for cpu := range t {
		all = append(all, cpu)
	}
	return cpuset.New(all...)
}

// perCore is how many CPUs a core has.
func (t Topology) perCore() int {
	cores := map[Place]bool{}
	for _, place := range t {
		cores[place] = true
	}
	return max(len(t)/max(len(cores), 1), 1)
}

// wholeCores are those of some CPUs whose core has no other.
func (t Topology) wholeCores(free cpuset.CPUSet) cpuset.CPUSet {
	whole := cpuset.New()
	byCore := func(cpu int) Place { return t[cpu] }
	for _, group := range groups(free, byCore) {
		if len(group) == t.size(group[0], byCore) {
			whole = whole.Union(cpuset.New(group...))
		}
	}
	return whole
}

// choose picks CPUs: whole sockets first, then whole cores, then threads of cores that are in use already. So a container
// shares as little as possible with others. It returns fewer than count only if there are not more.
func (t Topology) choose(free cpuset.CPUSet, count int) cpuset.CPUSet {
	chosen := cpuset.New()
	take := func(groups [][]int, size func(cpu int) int) {
		for _, group := range groups {
			if len(group) == size(group[0]) && chosen.Size()+len(group) <= count {
				chosen = chosen.Union(cpuset.New(group...))
			}
		}
	}
	bySocket := func(cpu int) Place { return Place{Socket: t[cpu].Socket} }
	byCore := func(cpu int) Place { return t[cpu] }
	take(groups(free, bySocket), func(cpu int) int { return t.size(cpu, bySocket) })
	take(groups(free.Difference(chosen), byCore), func(cpu int) int { return t.size(cpu, byCore) })
	rest := groups(free.Difference(chosen), byCore)
	slices.SortStableFunc(rest, func(a, b []int) int { return cmp.Compare(len(a), len(b)) })
	for _, group := range rest {
		for _, cpu := range group {
			if chosen.Size() < count {
				chosen = chosen.Union(cpuset.New(cpu))
			}
		}
	}
	return chosen
}

// size is how many CPUs of the machine are at the same place.
func (t Topology) size(cpu int, of func(int) Place) int {
	n := 0
	for other := range t {
		if of(other) == of(cpu) {
			n++
		}
	}
	return n
}

// groups gathers CPUs by place, in the order of their lowest numbers.
func groups(set cpuset.CPUSet, of func(int) Place) [][]int {
	var order []Place
	at := map[Place][]int{}
	for _, cpu := range set.List() {
		place := of(cpu)
		if at[place] == nil {
			order = append(order, place)
		}
		at[place] = append(at[place], cpu)
	}
	all := make([][]int, 0, len(order))
	for _, place := range order {
		all = append(all, at[place])
	}
	return all
}
