// SPDX-License-Identifier: Apache-2.0

package numa

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// Nodes are the machine's NUMA nodes, each with its CPUs.
type Nodes map[int]cpuset.CPUSet

// Read reads those that are online; dir is /sys/devices/system/node. A kernel without NUMA has none, and nothing is far there.
func Read(dir string) (Nodes, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "online"))
	if errors.Is(err, fs.ErrNotExist) {
		return Nodes{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which NUMA nodes there are: %w", err)
	}
	online, err := cpuset.Parse(strings.TrimSpace(string(raw))) // nodes are written as CPUs are
	if err != nil {
		return nil, fmt.Errorf("read which NUMA nodes there are: %w", err)
	}
	nodes := Nodes{}
	for _, n := range online.List() {
		if n >= 64 {
			return nil, fmt.Errorf("NUMA node %d is above the highest that is supported, 63", n)
		}
		raw, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("node%d", n), "cpulist"))
		if err != nil {
			return nil, fmt.Errorf("read the CPUs of NUMA node %d: %w", n, err)
		}
		if nodes[n], err = cpuset.Parse(strings.TrimSpace(string(raw))); err != nil {
			return nil, fmt.Errorf("read the CPUs of NUMA node %d: %w", n, err)
		}
	}
	return nodes, nil
}

// ReadDistances reads how far the nodes are from each other; dir is /sys/devices/system/node. The file of a node has a number for each
// that is online, in their order.
func ReadDistances(dir string, nodes Nodes) (Distances, error) {
	distances := Distances{}
	for from := range nodes {
		raw, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("node%d", from), "distance"))
		if err != nil {
			return nil, fmt.Errorf("read the distances of NUMA node %d: %w", from, err)
		}
		fields := strings.Fields(string(raw))
		if len(fields) != len(nodes) {
			return nil, fmt.Errorf("read the distances of NUMA node %d: %d are there for %d nodes", from, len(fields), len(nodes))
		}
		distances[from] = map[int]int{}
		for i, to := range nodes.All().List() {
			if distances[from][to], err = strconv.Atoi(fields[i]); err != nil {
				return nil, fmt.Errorf("read the distances of NUMA node %d: %w", from, err)
			}
		}
	}
	return distances, nil
}

// All is the set of all nodes.
func (n Nodes) All() (m Mask) {
	for node := range n {
		m |= Of(node)
	}
	return m
}

// CPUs are those of some nodes.
func (n Nodes) CPUs(m Mask) cpuset.CPUSet {
	all := cpuset.New()
	for node, cpus := range n {
		if m.Has(node) {
			all = all.Union(cpus)
		}
	}
	return all
}
