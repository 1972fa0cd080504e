// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/utils/cpuset"

	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/devices"
	"github.com/skiff-k8s/skiff/kubelet/memory"
	kubeletmetrics "github.com/skiff-k8s/skiff/kubelet/metrics"
	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// large is a kubelet on a machine with four NUMA nodes, each with four CPUs, of which CPU 0 is reserved, and 8 GiB. Two sockets have
// two each, but the first is nearest to the last, and the second to the third.
func large(t *testing.T, topology Topology) *Kubelet {
	t.Helper()
	places, nodes, machine := cpus.Topology{}, numa.Nodes{}, map[int]memory.Amounts{}
	for cpu := range 16 {
		node := cpu / 4
		places[cpu] = cpus.Place{Node: node, Socket: node / 2, Cache: node, Core: cpu}
		nodes[node] = nodes[node].Union(cpuset.New(cpu))
		machine[node] = memory.Amounts{v1.ResourceMemory: 8 << 30}
	}
	k := &Kubelet{cfg: Config{Topology: topology}, nodes: nodes, metrics: kubeletmetrics.New("n")}
	if topology.Closest {
		k.distances = numa.Distances{
			0: {0: 10, 1: 20, 2: 20, 3: 11}, 1: {0: 20, 1: 10, 2: 12, 3: 20}, 2: {0: 20, 1: 12, 2: 10, 3: 20}, 3: {0: 11, 1: 20, 2: 20, 3: 10},
		}
	}
	root := t.TempDir()
	var err error
	if k.cpus, err = cpus.New(root, places, 1, cpuset.New(0), cpus.Options{}); err != nil {
		t.Fatal(err)
	}
	if k.memory, err = memory.New(root, machine, map[int]memory.Amounts{0: {v1.ResourceMemory: 1 << 30}}, 1<<30); err != nil {
		t.Fatal(err)
	}
	k.devices = devices.New(root, k.metrics, nil, nil)
	return k
}

// What containers get lies on NUMA nodes as the operator wants it.
func TestAssignOnNodes(t *testing.T) {
	const single, restricted, effort = numa.SingleNode, numa.Restricted, numa.BestEffort
	closest := numa.Options{Closest: true}
	for _, c := range []struct {
		name       string
		topology   Topology
		containers []v1.ResourceRequirements
		want       []string // CPUs and memory nodes of each; nothing: it is refused
	}{
		{"the lowest node that has four", Topology{Policy: single}, []v1.ResourceRequirements{guaranteed("4", "1Gi")}, []string{"4-7 on 1"}},
		{"two containers on a node each", Topology{Policy: single}, []v1.ResourceRequirements{guaranteed("3", "4Gi"), guaranteed("3", "6Gi")}, []string{"1-3 on 0", "4-6 on 1"}},
		{"the whole pod on one node", Topology{Policy: single, Scope: numa.PodScope}, []v1.ResourceRequirements{guaranteed("2", "1Gi"), guaranteed("2", "1Gi")}, []string{"4-5 on 1", "6-7 on 1"}},
		{"the whole pod is too much for one", Topology{Policy: single, Scope: numa.PodScope}, []v1.ResourceRequirements{guaranteed("3", "4Gi"), guaranteed("3", "6Gi")}, nil},
		{"the container is too much for one", Topology{Policy: single}, []v1.ResourceRequirements{guaranteed("5", "1Gi")}, nil},
		{"the memory is too much for one", Topology{Policy: single}, []v1.ResourceRequirements{guaranteed("1", "9Gi")}, nil},
		{"two nodes, as no one could ever do", Topology{Policy: restricted}, []v1.ResourceRequirements{guaranteed("5", "9Gi")}, []string{"1,4-7 on 0-1"}},
		{"two nodes for the memory alone", Topology{Policy: restricted}, []v1.ResourceRequirements{guaranteed("1", "9Gi")}, nil},
		{"as it goes", Topology{Policy: effort}, []v1.ResourceRequirements{guaranteed("1", "9Gi")}, []string{"1 on 0-1"}},
		{"the two that are close", Topology{Policy: restricted, Options: closest}, []v1.ResourceRequirements{guaranteed("5", "9Gi")}, []string{"1,12-15 on 0,3"}},
		{"the two others that are close", Topology{Policy: restricted, Options: closest}, []v1.ResourceRequirements{guaranteed("8", "9Gi")}, []string{"4-11 on 1-2"}},
		{"nobody asks", Topology{Policy: numa.None}, []v1.ResourceRequirements{guaranteed("5", "9Gi")}, []string{"1,4-7 on 0-1"}},
	} {
		k := large(t, c.topology)
		pod := testPod("p")
		pod.UID = types.UID("p")
		pod.Spec.Containers = nil
		for i, r := range c.containers {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: string(rune('a' + i)), Resources: r})
		}
		if refused := k.assign(t.Context(), pod); (refused != nil) != (c.want == nil) {
			t.Errorf("%s: refused %v", c.name, refused)
		}
		for i, want := range c.want {
			container := string(rune('a' + i))
			got := k.cpus.Exclusive("p", container).String() + " on " + memory.Nodes(k.memory.Of("p", container))
			if got != want {
				t.Errorf("%s: %s has %s, want %s", c.name, container, got, want)
			}
		}
	}
}

// What the managers do is counted.
func TestAlignmentIsCounted(t *testing.T) {
	k := large(t, Topology{Policy: numa.SingleNode, Scope: numa.ContainerScope})
	fits, not := sized("fits", guaranteed("2", "1Gi")), sized("not", guaranteed("5", "1Gi"))
	if k.assign(t.Context(), fits) != nil || k.assign(t.Context(), not) == nil {
		t.Fatal("the pods are admitted otherwise")
	}
	a := k.metrics.Alignment
	for name, is := range map[string]struct {
		of   metrics.CounterMetric
		want float64
	}{
		"asked": {a.Asked, 2}, "refused": {a.Refused, 1}, "CPUs asked": {a.CPURequests, 1}, "CPUs not given": {a.CPUErrors, 0}, "memory asked": {a.MemoryRequests, 1},
		"aligned": {a.Aligned.WithLabelValues("container", "numa_node"), 1}, "not aligned": {a.NotAligned.WithLabelValues("container", "numa_node"), 1},
		"behind one cache": {a.Aligned.WithLabelValues("container", "uncore_cache"), 1},
	} {
		if got, err := testutil.GetCounterMetricValue(is.of); err != nil || got != is.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, is.want)
		}
	}
	for name, is := range map[string]struct {
		of   metrics.GaugeMetric
		want float64
	}{
		"left": {a.SharedCPUs, 13000}, "own": {a.OwnCPUs, 2}, "own on the second": {a.OwnCPUsOn.WithLabelValues("1"), 0},
	} {
		if got, err := testutil.GetGaugeMetricValue(is.of); err != nil || got != is.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, is.want)
		}
	}
}
