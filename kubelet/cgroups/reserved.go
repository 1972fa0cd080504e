// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Reservation is what the operator keeps for a group of his own, in which something runs that is not a pod.
type Reservation struct {
	Owner        string // kube or system
	Group        string
	Amounts      v1.ResourceList
	Compressible bool // only the CPU is limited
}

// Enforce limits a group to what is reserved for it. The group must be there already: it is not below the root of this tree, and
// nothing is made outside.
func (t *Tree) Enforce(r Reservation) error {
	n, reserved := t.named(r.Group), r.Amounts
	if len(reserved) == 0 {
		return fmt.Errorf("%q cgroup is not configured properly", n)
	}
	path := t.pathBelow("/", n)
	if err := t.validate(n, path); err != nil {
		return err
	}
	limits := Limits{}
	if cpu, set := reserved[v1.ResourceCPU]; set {
		limits.CPUShares = Shares(cpu.MilliValue())
	}
	if r.Compressible {
		return t.applyTo(path, limits)
	}
	pids := reserved["pid"]
	limits.MemoryBytes, limits.Pids, limits.HugePages = reserved.Memory().Value(), pids.Value(), HugePages(reserved)
	limits.MemoryMin = limits.MemoryBytes
	return t.applyTo(path, limits)
}

// named reads the name of a group as the driver writes it: /some/group, or some-group.slice.
func (t *Tree) named(group string) (n name) {
	separator := "/"
	if t.cfg.Driver == Systemd {
		group, separator = strings.TrimSuffix(filepath.Base(group), ".slice"), "-"
	}
	for part := range strings.SplitSeq(group, separator) {
		if part != "" {
			n = append(n, part)
		}
	}
	return n
}

// validate finds out whether the group is there with all that the kubelet limits.
func (t *Tree) validate(n name, path string) error {
	var missing []string
	if t.unified {
		all, err := controllersAt(t.cfg.Mount)
		if err != nil {
			return err
		}
		has, err := controllersAt(filepath.Join(t.cfg.Mount, path))
		if err != nil {
			return fmt.Errorf("could not read controllers for cgroup %q: %w", n, err)
		}
		for _, c := range []string{"cpu", "cpuset", "hugetlb", "memory", "pids"} {
			if slices.Contains(all, c) && !slices.Contains(has, c) {
				missing = append(missing, c)
			}
		}
		if missing != nil {
			return fmt.Errorf("cgroup %q has some missing controllers: %s", n, strings.Join(missing, ", "))
		}
		return nil
	}
	for _, dir := range t.controllers {
		needed := func(c string) bool {
			return slices.Contains([]string{"cpu", "cpuacct", "cpuset", "memory", "systemd", "pids", "hugetlb"}, c)
		}
		if !slices.ContainsFunc(strings.Split(filepath.Base(dir), ","), needed) {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			missing = append(missing, filepath.Join(dir, path))
		}
	}
	if missing != nil {
		return fmt.Errorf("cgroup %q has some missing paths: %s", n, strings.Join(missing, ", "))
	}
	return nil
}

func controllersAt(dir string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	return strings.Fields(string(data)), err
}
