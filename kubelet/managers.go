// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// Where the kernel tells what the machine has.
const (
	cpuDir  = "/sys/devices/system/cpu"
	nodeDir = "/sys/devices/system/node"
)

// reserveCPUs starts the CPU manager, if containers have CPUs of their own.
func (k *Kubelet) reserveCPUs() error {
	if !k.cfg.StaticCPUs {
		return cpus.CheckUnused(k.cfg.Root)
	}
	nodes, err := numa.Read(nodeDir)
	if err != nil {
		return err
	}
	topology, err := cpus.ReadTopology(cpuDir, nodes)
	if err != nil {
		return err
	}
	reserved := k.cfg.Node.Reserved[v1.ResourceCPU]
	k.cpus, err = cpus.New(k.cfg.Root, topology, int(math.Ceil(float64(reserved.MilliValue())/1000)), k.cfg.ReservedCPUs, k.cfg.CPUOptions)
	if err != nil {
		return err
	}
	k.countCPUs()
	for _, boundary := range []string{"physical_cpu", "uncore_cache"} { // that there are none is said, too
		k.metrics.Alignment.Aligned.WithLabelValues(numa.ContainerScope, boundary).Add(0)
	}
	k.metrics.Alignment.NotAligned.WithLabelValues(numa.ContainerScope, "physical_cpu").Add(0)
	return nil
}

// reserveMemory starts the memory manager, if containers have memory on NUMA nodes.
func (k *Kubelet) reserveMemory() error {
	if !k.cfg.StaticMemory {
		return memory.CheckUnused(k.cfg.Root)
	}
	nodes, err := numa.Read(nodeDir)
	if err != nil {
		return err
	}
	machine, err := memory.Read(nodeDir, nodes)
	if err != nil {
		return err
	}
	kept := k.cfg.Node.Reserved.Memory().Value() + k.cfg.Node.EvictionHard.Memory().Value()
	k.memory, err = memory.New(k.cfg.Root, machine, k.cfg.ReservedMemory, kept)
	return err
}

// readTopology reads what is near to what, if that matters to the operator.
func (k *Kubelet) readTopology() (err error) {
	if !k.aligns() {
		return nil
	}
	t := k.cfg.Topology
	for _, scope := range []string{numa.ContainerScope, numa.PodScope} { // that there are none is said, too
		k.metrics.Alignment.Aligned.WithLabelValues(scope, "numa_node").Add(0)
		k.metrics.Alignment.NotAligned.WithLabelValues(scope, "numa_node").Add(0)
	}
	if k.nodes, err = numa.Read(nodeDir); err != nil {
		return err
	}
	if most := cmp.Or(t.MaxNodes, numa.MaxNodes); len(k.nodes) > most {
		return fmt.Errorf("topologyManagerPolicy %s is unsupported on machines with more than %d NUMA Nodes", t.Policy, most)
	}
	if t.Closest && t.Policy != numa.SingleNode { // which needs no distances
		k.distances, err = numa.ReadDistances(nodeDir, k.nodes)
	}
	return err
}

// enforced is the reason of events about limits that have been set.
const enforced = "NodeAllocatableEnforced"

// enforceReservations limits the groups of the operator to what is reserved for them.
func (k *Kubelet) enforceReservations() error {
	for _, r := range k.cfg.Reservations {
		if err := k.tree.Enforce(r); err != nil {
			kind := map[string]string{"kube": "Kube Reserved", "system": "System Reserved"}[r.Owner]
			if r.Compressible {
				kind += " Compressible"
			}
			err = fmt.Errorf("Failed to enforce %s Cgroup Limits on %q: %w", kind, r.Group, err) //nolint:staticcheck // upstream's words
			k.events.Event(k.agent.Ref(), v1.EventTypeWarning, "FailedNodeAllocatableEnforcement", err.Error())
			return err
		}
		k.events.Eventf(k.agent.Ref(), v1.EventTypeNormal, enforced, "Updated limits on %s reserved cgroup %s", r.Owner, r.Group)
	}
	return nil
}
