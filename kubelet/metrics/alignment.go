// SPDX-License-Identifier: Apache-2.0

package metrics

import "k8s.io/component-base/metrics"

// Alignment is what the managers of CPUs, memory and topology do.
type Alignment struct {
	CPURequests, CPUErrors       *metrics.Counter  // of containers that want CPUs of their own
	SharedCPUs                   *metrics.Gauge    // in thousandths, of which containers could still have some of their own
	OwnCPUs                      *metrics.Gauge    // that are some container's own
	OwnCPUsOn                    *metrics.GaugeVec // numa_node
	MemoryRequests, MemoryErrors *metrics.Counter  // of containers that want memory of their own
	Asked, Refused               *metrics.Counter  // of pods, if there is a topology policy
	Took                         *metrics.Histogram

	Aligned, NotAligned *metrics.CounterVec // scope: container, pod; boundary: numa_node, physical_cpu, uncore_cache
}

func newAlignment() Alignment {
	return Alignment{
		CPURequests: counter("cpu_manager_pinning_requests_total", "Containers for which CPUs of their own were asked."),
		CPUErrors:   counter("cpu_manager_pinning_errors_total", "Containers for which CPUs of their own were asked, but not given."),
		SharedCPUs:  gauge("cpu_manager_shared_pool_size_millicores", "CPUs that no container has for itself and that are not reserved, in millicores."),
		OwnCPUs:     gauge("cpu_manager_exclusive_cpu_allocation_count", "CPUs that containers have for themselves."),
		OwnCPUsOn: gauges("cpu_manager_allocation_per_numa",
			"CPUs that containers have for themselves, by NUMA node.", "numa_node"),
		MemoryRequests: counter("memory_manager_pinning_requests_total", "Containers for which memory on NUMA nodes was asked."),
		MemoryErrors:   counter("memory_manager_pinning_errors_total", "Containers for which memory on NUMA nodes was asked, but not given."),
		Asked:          counter("topology_manager_admission_requests_total", "Pods whose resources have to be aligned."),
		Refused:        counter("topology_manager_admission_errors_total", "Pods whose resources could not be aligned."),
		Took:           histogram("topology_manager_admission_duration_ms", "Duration in milliseconds to align the resources of a pod.", metrics.ExponentialBuckets(.05, 2, 15)),
		Aligned:        counters("container_aligned_compute_resources_count", "Containers and pods with resources that are aligned, by what at.", "scope", "boundary"),
		NotAligned:     counters("container_aligned_compute_resources_failure_count", "Containers and pods whose resources could not be aligned, by what at.", "scope", "boundary"),
	}
}

func (a Alignment) list() []metrics.Registerable {
	return []metrics.Registerable{a.CPURequests, a.CPUErrors, a.SharedCPUs, a.OwnCPUs, a.OwnCPUsOn, a.MemoryRequests, a.MemoryErrors, a.Asked, a.Refused, a.Took, a.Aligned, a.NotAligned}
}
