// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
)

// The OOM scores of the quality-of-service classes: the kernel ends the process with the highest first.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// linuxResources turns requests and limits into what the cgroups of a container take.
func (r *Runtime) linuxResources(requests, limits v1.ResourceList) *runtimeapi.LinuxContainerResources {
	cpu, ok := requests[v1.ResourceCPU]
	if !ok {
		cpu = limits[v1.ResourceCPU] // a limit without a request is the request too
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          cgroups.Shares(cpu.MilliValue()),
		MemoryLimitInBytes: limits.Memory().Value(),
	}
	if r.cfg.CPUCFSQuota {
		out.CpuPeriod = int64(r.cfg.CPUCFSPeriod / time.Microsecond)
		out.CpuQuota = cgroups.Quota(limits.Cpu().MilliValue(), out.CpuPeriod)
	}
	return out
}

func (r *Runtime) containerResources(pod *v1.Pod, c *v1.Container) *runtimeapi.LinuxContainerResources {
	limits := c.Resources.Limits.DeepCopy()
	if podresource.IsPodLevelResourcesSet(pod) { // what the container leaves open ends at the pod's limit
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			whole, set := pod.Spec.Resources.Limits[name]
			if own := limits[name]; set && own.IsZero() {
				if limits == nil {
					limits = v1.ResourceList{}
				}
				limits[name] = whole
			}
		}
	}
	out := r.linuxResources(c.Resources.Requests, limits)
	if r.cfg.CPUCFSQuota && r.host.OwnCPUs(pod, c) {
		out.CpuQuota = -1 // they are its own all the time
	}
	out.OomScoreAdj = max(oomScore(pod, c, r.cfg.MemoryCapacity), r.cfg.MinOOMScoreAdj)
	out.HugepageLimits = r.hugepages(c.Resources.Limits)
	unified := map[string]string{}
	if r.cfg.WholeOOMKill {
		unified["memory.oom.group"] = "1"
	}
	r.memoryQoS(pod, c, unified)
	if len(unified) > 0 {
		out.Unified = unified
	}
	r.limitSwap(pod, c, out)
	return out
}

// memoryQoS protects what a container requests, and slows it down before it is at its limit, or the node at its end.
func (r *Runtime) memoryQoS(pod *v1.Pod, c *v1.Container, unified map[string]string) {
	asks, most := c.Resources.Requests.Memory().Value(), c.Resources.Limits.Memory().Value()
	if p := r.cfg.MemoryQoS.Protection(qos.GetPodQOS(pod), asks); p != nil {
		unified["memory.min"], unified["memory.low"] = strconv.FormatInt(p.Min, 10), strconv.FormatInt(p.Low, 10)
	}
	if most == 0 && podresource.IsPodLevelResourcesSet(pod) && !pod.Spec.Resources.Limits.Memory().IsZero() {
		return // its pod's group is slowed down
	}
	if most == 0 {
		most = r.cfg.AllocatableMemory
	}
	if high := r.cfg.MemoryQoS.High(asks, most); high > 0 {
		unified["memory.high"] = strconv.FormatInt(high, 10)
	}
}

// hugepages limits every page size the kernel has, to zero unless the container asks for some.
func (r *Runtime) hugepages(limits v1.ResourceList) []*runtimeapi.HugepageLimit {
	var out []*runtimeapi.HugepageLimit
	asked := cgroups.HugePages(limits)
	for _, size := range r.cfg.HugePageSizes {
		out = append(out, &runtimeapi.HugepageLimit{PageSize: size, Limit: uint64(asked[size])})
	}
	return out
}

// oomScore makes those who use more than they asked for go first, and guaranteed pods last.
func oomScore(pod *v1.Pod, c *v1.Container, capacity int64) int64 {
	if pod.Spec.PriorityClassName == "system-node-critical" {
		return oomGuaranteed
	}
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSGuaranteed:
		return oomGuaranteed
	case v1.PodQOSBestEffort:
		return oomBestEffort
	}
	if capacity <= 0 {
		return oomBestEffort - 1
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	if isSidecarOf(pod, c) { // never before the containers that it serves
		least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
		for i := range pod.Spec.Containers {
			least = min(least, pod.Spec.Containers[i].Resources.Requests.Memory().Value())
		}
		score = min(score, 1000-1000*least/capacity)
	}
	return min(max(score, 1000+oomGuaranteed), oomBestEffort-1)
}

func isSidecarOf(pod *v1.Pod, c *v1.Container) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == c.Name {
			return IsSidecar(c) && len(pod.Spec.Containers) > 0
		}
	}
	return false
}
