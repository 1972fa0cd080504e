// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// Read reads what NUMA nodes have; dir is /sys/devices/system/node. Memory is what is not set aside for huge pages.
func Read(dir string, nodes numa.Nodes) (map[int]Amounts, error) {
	machine := map[int]Amounts{}
	for node := range nodes {
		of := filepath.Join(dir, fmt.Sprintf("node%d", node))
		info, err := os.ReadFile(filepath.Join(of, "meminfo"))
		if err != nil {
			return nil, fmt.Errorf("read the memory of NUMA node %d: %w", node, err)
		}
		total, err := memTotal(string(info))
		if err != nil {
			return nil, fmt.Errorf("read the memory of NUMA node %d: %w", node, err)
		}
		amounts, err := hugePages(filepath.Join(of, "hugepages"))
		if err != nil {
			return nil, fmt.Errorf("read the huge pages of NUMA node %d: %w", node, err)
		}
		for _, size := range amounts {
			total -= size
		}
		amounts[v1.ResourceMemory] = total
		machine[node] = amounts
	}
	return machine, nil
}

// memTotal finds the line "Node 0 MemTotal:  1024 kB".
func memTotal(info string) (int64, error) {
	for line := range strings.Lines(info) {
		if fields := strings.Fields(line); len(fields) == 5 && fields[2] == "MemTotal:" {
			kilo, err := strconv.ParseInt(fields[3], 10, 64)
			return kilo << 10, err
		}
	}
	return 0, errors.New("there is no MemTotal")
}

// hugePages are those of each size, from folders such as hugepages-2048kB.
func hugePages(dir string) (Amounts, error) {
	sizes, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	amounts := Amounts{}
	for _, size := range sizes {
		kilo, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(size.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, size.Name(), "nr_hugepages"))
		if err != nil {
			return nil, err
		}
		count, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return nil, err
		}
		name := v1.ResourceHugePagesPrefix + resource.NewQuantity(kilo<<10, resource.BinarySI).String()
		amounts[v1.ResourceName(name)] = count * kilo << 10
	}
	return amounts, nil
}
