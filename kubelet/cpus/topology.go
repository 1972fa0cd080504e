// SPDX-License-Identifier: Apache-2.0

package cpus

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// Topology says of each CPU where it is.
type Topology map[int]Place

// Place is where a CPU is: on which NUMA node, in which socket, behind which cache that only some cores of the node share (or its
// socket, if there is no such cache), and on which core, which has the number of its lowest CPU.
type Place struct{ Node, Socket, Cache, Core int }

// level is a part of the machine that has CPUs.
type level int

const (
	node level = iota
	socket
	cache
	core
)

func (p Place) at(l level) int {
	switch l {
	case node:
		return p.Node
	case socket:
		return p.Socket
	case cache:
		return p.Cache
	}
	return p.Core
}

// ReadTopology reads that of the CPUs that are online; dir is /sys/devices/system/cpu. Where no NUMA nodes are known, each socket is one.
func ReadTopology(dir string, nodes numa.Nodes) (Topology, error) {
	data, err := os.ReadFile(filepath.Join(dir, "online"))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs there are: %w", err)
	}
	online, err := cpuset.Parse(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs there are: %w", err)
	}
	t := Topology{}
	type id struct{ node, socket, core int }
	lowest := map[id]int{}
	for _, cpu := range online.List() {
		of := filepath.Join(dir, fmt.Sprintf("cpu%d", cpu))
		is := id{socket: number(filepath.Join(of, "topology", "physical_package_id"), 0), core: number(filepath.Join(of, "topology", "core_id"), cpu)}
		is.node = is.socket
		for n, has := range nodes {
			if has.Contains(cpu) {
				is.node = n
			}
		}
		if _, known := lowest[is]; !known {
			lowest[is] = cpu
		}
		t[cpu] = Place{Node: is.node, Socket: is.socket, Core: lowest[is]}
	}
	for cpu, place := range t {
		place.Cache = t.cacheOf(filepath.Join(dir, fmt.Sprintf("cpu%d", cpu), "cache"), cpu)
		t[cpu] = place
	}
	return t, nil
}

// number reads a file that has one; a virtual machine may not have it.
func number(file string, otherwise int) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return otherwise
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return otherwise
	}
	return n
}

// cacheOf finds the first cache above the second level that a CPU does not share with just its NUMA node.
func (t Topology) cacheOf(dir string, cpu int) int {
	indexes, err := os.ReadDir(dir) // they are sorted
	if err != nil {
		return t[cpu].Socket
	}
	for _, index := range indexes {
		of := filepath.Join(dir, index.Name())
		if number(filepath.Join(of, "level"), 0) <= 2 {
			continue
		}
		list, err := os.ReadFile(filepath.Join(of, "shared_cpu_list"))
		if err != nil {
			continue
		}
		shared, err := cpuset.Parse(strings.TrimSpace(string(list)))
		if err == nil && shared.Size() != t.size(cpu, node) {
			return number(filepath.Join(of, "id"), t[cpu].Socket)
		}
	}
	return t[cpu].Socket
}

func (t Topology) all() cpuset.CPUSet {
	all := make([]int, 0, len(t))
	for cpu := range t {
		all = append(all, cpu)
	}
	return cpuset.New(all...)
}

// count is how many nodes, sockets, caches or cores there are.
func (t Topology) count(l level) int {
	are := map[int]bool{}
	for _, place := range t {
		are[place.at(l)] = true
	}
	return len(are)
}

// per is how many CPUs are in one of them.
func (t Topology) per(l level) int { return max(len(t)/max(t.count(l), 1), 1) }

// on are those of some CPUs that are at one of some places.
func (t Topology) on(l level, set cpuset.CPUSet, places ...int) cpuset.CPUSet {
	var on []int
	for _, cpu := range set.UnsortedList() {
		if slices.Contains(places, t[cpu].at(l)) {
			on = append(on, cpu)
		}
	}
	return cpuset.New(on...)
}

// size is how many CPUs of the machine are at the same place as one.
func (t Topology) size(cpu int, l level) (n int) {
	for _, place := range t {
		if place.at(l) == t[cpu].at(l) {
			n++
		}
	}
	return n
}

// wholeCores are those of some CPUs whose core has no other.
func (t Topology) wholeCores(free cpuset.CPUSet) cpuset.CPUSet {
	whole := cpuset.New()
	for _, group := range t.split(free.List(), core) {
		if len(group) == t.size(group[0], core) {
			whole = whole.Union(cpuset.New(group...))
		}
	}
	return whole
}

// sockets are all CPUs of the sockets in which some are.
func (t Topology) sockets(of cpuset.CPUSet) cpuset.CPUSet {
	var are []int
	for _, cpu := range of.UnsortedList() {
		are = append(are, t[cpu].Socket)
	}
	return t.on(socket, t.all(), are...)
}

// nodes are those that have CPUs.
func (t Topology) nodes() (m numa.Mask) {
	for _, place := range t {
		m |= numa.Of(place.Node)
	}
	return m
}

// preferSockets prefers all hints that need no more sockets than NUMA nodes that suffice are in, if each socket had all of them.
func (t Topology) preferSockets(hints numa.Hints, least int) {
	perSocket := t.count(node) / t.count(socket)
	for i, h := range hints {
		sockets := len(t.split(t.on(node, t.all(), h.Nodes.List()...).List(), socket))
		if sockets == (least+perSocket-1)/perSocket {
			hints[i].Preferred = true
		}
	}
}
