// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/cgroups"
)

// amounts are what of a container's resources its cgroups are made of.
type amounts struct{ memoryRequest, memoryLimit, cpuRequest, cpuLimit int64 }

// amountsOf takes a limit that the container leaves open from its pod.
func amountsOf(pod *v1.ResourceRequirements, c v1.ResourceRequirements) amounts {
	a := amounts{c.Requests.Memory().Value(), c.Limits.Memory().Value(), c.Requests.Cpu().MilliValue(), c.Limits.Cpu().MilliValue()}
	if pod != nil && a.memoryLimit == 0 {
		a.memoryLimit = pod.Limits.Memory().Value()
	}
	if pod != nil && a.cpuLimit == 0 {
		a.cpuLimit = pod.Limits.Cpu().MilliValue()
	}
	return a
}

// resize plans other resources for a running container if what it was given is not what its spec says. restart means that
// the container must be replaced for it.
func (p *Plan) resize(pod *v1.Pod, c *v1.Container, now *Container, grants Grants) (restart bool) {
	is, wants, known := given(pod, c, grants)
	if !known || is == wants {
		return false
	}
	p.ResizePod = true
	memory := is.memoryLimit != wants.memoryLimit || is.memoryRequest != wants.memoryRequest
	cpu := is.cpuLimit != wants.cpuLimit || is.cpuRequest != wants.cpuRequest
	if memory && RestartsFor(c, v1.ResourceMemory) || cpu && RestartsFor(c, v1.ResourceCPU) {
		return true
	}
	p.Resize = append(p.Resize, Resize{now, c})
	return false
}

// RestartsFor says whether a container has to be replaced to be given more or less of a resource.
func RestartsFor(c *v1.Container, name v1.ResourceName) bool {
	return slices.Contains(c.ResizePolicy, v1.ContainerResizePolicy{ResourceName: name, RestartPolicy: v1.RestartContainer})
}

// given compares what a container has with what its spec says; unknown for one that was never granted anything.
func given(pod *v1.Pod, c *v1.Container, grants Grants) (is, wants amounts, known bool) {
	if grants == nil {
		return is, wants, false
	}
	have, known := grants.Actuated(pod.UID, c.Name)
	if !known {
		return is, wants, false
	}
	whole, _ := grants.PodActuated(pod.UID)
	return amountsOf(whole, have), amountsOf(pod.Spec.Resources, c.Resources), true
}

// resizeForStart makes room in the pod for containers that are to start with more than they had.
func (p *Plan) resizeForStart(pod *v1.Pod, grants Grants) {
	changed := func(c *v1.Container) {
		is, wants, known := given(pod, c, grants)
		p.ResizePod = p.ResizePod || known && is != wants
	}
	for _, i := range p.StartInit {
		changed(&pod.Spec.InitContainers[i])
	}
	for _, i := range p.Start {
		changed(&pod.Spec.Containers[i])
	}
}

func podResized(pod *v1.Pod, grants Grants) bool {
	if grants == nil {
		return false
	}
	have, known := grants.PodActuated(pod.UID)
	return known && amountsOfPod(have) != amountsOfPod(pod.Spec.Resources)
}

func amountsOfPod(r *v1.ResourceRequirements) amounts {
	if r == nil {
		return amounts{}
	}
	return amountsOf(nil, *r)
}

// Resizing says whether a running container, or the pod, has not been given yet what its spec says.
func Resizing(pod *v1.Pod, status *Status, grants Grants) bool {
	if podResized(pod, grants) {
		return true
	}
	for _, now := range status.RunningContainers() {
		if c := Spec(pod, now.Name); c != nil {
			if is, wants, known := given(pod, c, grants); known && is != wants {
				return true
			}
		}
	}
	return false
}

// resize gives running containers, and the pod around them, what the spec says. The pod's cgroup is never smaller than
// those in it: it grows before them and shrinks after them; and those that shrink make room for those that grow.
func (r *Runtime) resize(ctx context.Context, pod *v1.Pod, plan Plan) (err error) {
	if !plan.ResizePod {
		return nil
	}
	began := time.Now()
	defer func() {
		r.metrics.Resizes.Took.WithLabelValues(strconv.FormatBool(err == nil)).Observe(float64(time.Since(began).Milliseconds()))
	}()
	have, want, used, err := r.host.PodLimits(pod)
	if err != nil {
		return fmt.Errorf("unable to get pod cgroup config for pod %q: %w", podText(pod), err)
	}
	if want.MemoryBytes == 0 {
		want.MemoryBytes = have.MemoryBytes // a limit is never taken away
	}
	if want.CPUQuota == 0 {
		want.CPUQuota = have.CPUQuota
	}
	if err := r.checkMemory(ctx, pod, plan, have, want, used); err != nil {
		return err
	}
	if err := r.tellRuntime(ctx, pod, plan); err != nil {
		return err
	}
	if err := r.host.SetPodLimits(pod, cgroups.Limits{
		CPUShares: max(have.CPUShares, want.CPUShares), CPUQuota: larger(have.CPUQuota, want.CPUQuota), MemoryBytes: larger(have.MemoryBytes, want.MemoryBytes),
	}); err != nil {
		return err
	}
	for _, c := range r.smallerFirst(pod, plan.Resize) {
		if err := r.update(ctx, pod, c); err != nil {
			return err
		}
	}
	if err := r.host.SetPodLimits(pod, want); err != nil {
		return err
	}
	return r.grants.Actuate(pod, true)
}

// tellRuntime tells the runtime, and who hooks into it, what the pod as a whole is to have. It may object.
func (r *Runtime) tellRuntime(ctx context.Context, pod *v1.Pod, plan Plan) error {
	if plan.CreateSandbox {
		return nil // the next one is made for what the pod has by then
	}
	_, err := r.cri.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: plan.SandboxID, Resources: r.podResources(pod), Overhead: r.overhead(pod),
	})
	if err != nil && grpcstatus.Code(err) != codes.Unimplemented && !strings.Contains(err.Error(), "not implemented") { // an older one cannot be told
		return fmt.Errorf("tell the runtime of the resize of sandbox %s: %w", plan.SandboxID, err)
	}
	return nil
}

// larger treats 0 as no limit, which is the largest.
func larger(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

func (r *Runtime) smallerFirst(pod *v1.Pod, all []Resize) []Resize {
	grows := func(c Resize) int64 {
		is, wants, _ := given(pod, c.Spec, r.grants)
		return wants.memoryLimit - is.memoryLimit
	}
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b Resize) int { return cmp.Compare(grows(a), grows(b)) })
	return sorted
}

func (r *Runtime) update(ctx context.Context, pod *v1.Pod, c Resize) error {
	all := r.containerResources(pod, c.Spec)
	_, err := r.cri.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.Container.ID,
		Linux: &runtimeapi.LinuxContainerResources{
			CpuPeriod: all.CpuPeriod, CpuQuota: all.CpuQuota, CpuShares: all.CpuShares, MemoryLimitInBytes: all.MemoryLimitInBytes,
			MemorySwapLimitInBytes: all.MemorySwapLimitInBytes, Unified: all.Unified,
		},
	})
	if err != nil {
		return fmt.Errorf("update resources of container %s: %w", c.Spec.Name, err)
	}
	return r.grants.Actuate(pod, false, c.Spec.Name)
}

// checkMemory refuses limits below what is in use: the kernel would end processes, or refuse half of the change.
func (r *Runtime) checkMemory(ctx context.Context, pod *v1.Pod, plan Plan, have, want cgroups.Limits, used int64) error {
	var errs []error
	if want.MemoryBytes > 0 && (have.MemoryBytes == 0 || want.MemoryBytes < have.MemoryBytes) && used >= want.MemoryBytes {
		errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", want.MemoryBytes, used))
	}
	for _, c := range plan.Resize {
		is, wants, _ := given(pod, c.Spec, r.grants)
		if wants.memoryLimit == 0 || is.memoryLimit != 0 && wants.memoryLimit >= is.memoryLimit {
			continue
		}
		stats, err := r.cri.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: c.Container.ID})
		usage := stats.GetStats().GetMemory().GetUsageBytes()
		switch {
		case err != nil || usage == nil:
			errs = append(errs, fmt.Errorf("missing container %q memory usage", c.Spec.Name))
		case usage.GetValue() >= uint64(wants.memoryLimit):
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Spec.Name, wants.memoryLimit, usage.GetValue()))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot decrease memory limits: %w", utilerrors.NewAggregate(errs))
	}
	return nil
}
