// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/skiff-k8s/skiff/kubelet/eviction"
)

// Swap is how the machine's swap is shared. The zero value leaves it to the runtime.
type Swap struct {
	Controlled bool  // the kernel limits it by cgroups
	Unified    bool  // by those of version 2
	Limited    bool  // containers that may use more memory than they ask for may swap; else none may
	Capacity   int64 // of the machine, in bytes
}

// limitSwap says in the resources of a container how much it may swap; with version 2 they have a table of settings.
// Reference: https://kubernetes.io/docs/concepts/cluster-administration/swap-memory-management/
func (r *Runtime) limitSwap(pod *v1.Pod, c *v1.Container, out *runtimeapi.LinuxContainerResources) {
	switch swap := r.cfg.Swap; {
	case !swap.Controlled:
	case swap.Unified:
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified["memory.swap.max"] = strconv.FormatInt(r.swapOf(pod, c), 10)
	default:
		out.MemorySwapLimitInBytes = out.MemoryLimitInBytes // of memory and swap together: nothing beyond memory
	}
}

// Swaps says whether a container may swap.
func (r *Runtime) Swaps(pod *v1.Pod, c *v1.Container) bool {
	asks, most := c.Resources.Requests.Memory(), c.Resources.Limits.Memory()
	swap := r.cfg.Swap // asks and most may be nothing
	return swap.Limited && swap.Controlled && swap.Unified && !eviction.Critical(pod) && qos.GetPodQOS(pod) == v1.PodQOSBurstable && asks.Cmp(*most) != 0
}

// swapOf is a container's part of the swap: that of the node's memory which it asks for.
func (r *Runtime) swapOf(pod *v1.Pod, c *v1.Container) int64 {
	asks := c.Resources.Requests.Memory()
	if !r.Swaps(pod, c) || asks.Value() > r.cfg.MemoryCapacity {
		return 0
	}
	return int64(float64(asks.Value()) / float64(r.cfg.MemoryCapacity) * float64(r.cfg.Swap.Capacity))
}
