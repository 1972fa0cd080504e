// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// kind is which of the pod's three lists a container is in.
type kind int

const (
	regular kind = iota
	initial
	ephemeral
)

// The reasons of a container that was never seen, or vanished.
const (
	reasonCreating     = "ContainerCreating"
	reasonInitializing = "PodInitializing"
	reasonUnknown      = "ContainerStatusUnknown"
	reasonRestarting   = "RestartingAllContainers"
)

func (in *Input) containerStatuses(specs []v1.Container, old []v1.ContainerStatus, k kind) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range specs {
		before := find(old, specs[i].Name)
		s := in.containerStatus(&specs[i], before, k)
		if k == regular {
			s.AllocatedResourcesStatus = in.devices(&specs[i], before)
		}
		out = append(out, s)
	}
	if k != initial { // init containers keep the order in which they run
		slices.SortFunc(out, func(a, b v1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
	}
	return out
}

// devices are those of a container and how they are. Once it has given them back that stays as it was last.
func (in *Input) devices(c *v1.Container, old *v1.ContainerStatus) (now []v1.ResourceStatus) {
	if in.Devices != nil {
		now = in.Devices(in.Pod, c)
	}
	if now == nil && old != nil {
		return old.AllocatedResourcesStatus
	}
	return now
}

func (in *Input) containerStatus(c *v1.Container, old *v1.ContainerStatus, k kind) v1.ContainerStatus {
	var instances []*containers.Container // newest first
	for _, have := range in.Runtime.Containers {
		if have.Name == c.Name {
			instances = append(instances, have)
		}
	}
	if len(instances) == 0 {
		return in.unseen(c, old, k)
	}
	s := in.fromRuntime(c, instances[0])
	if old != nil { // those that it counts may have been removed
		s.RestartCount = max(s.RestartCount, old.RestartCount)
	}
	if len(instances) > 1 {
		s.LastTerminationState = in.fromRuntime(c, instances[1]).State
	} else if old != nil {
		s.LastTerminationState = endBefore(old, s.ContainerID)
	}
	in.waiting(c, &s, k)
	return s
}

// endBefore is how the last container ended before that one, of which only the status is left.
func endBefore(old *v1.ContainerStatus, id string) v1.ContainerState {
	for _, state := range []v1.ContainerState{old.State, old.LastTerminationState} {
		if end := state.Terminated; end != nil && end.ContainerID != id {
			return state
		}
	}
	return v1.ContainerState{}
}

// waiting replaces the end of a container by why it is not started again yet.
func (in *Input) waiting(c *v1.Container, s *v1.ContainerStatus, k kind) {
	why := in.Waiting[c.Name]
	if why == nil || k == ephemeral && s.State.Terminated != nil || in.Terminal || !containers.ShouldStart(in.Pod, in.Runtime, c) {
		return
	}
	if k == initial && !containers.IsSidecar(c) && s.State.Terminated != nil && s.State.Terminated.ExitCode == 0 {
		return // done
	}
	if s.State.Terminated != nil {
		s.LastTerminationState = s.State
	}
	s.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: why.Reason, Message: why.Message}}
}

// unseen is the status of a container that the runtime does not have: not made yet, or removed.
func (in *Input) unseen(c *v1.Container, old *v1.ContainerStatus, k kind) v1.ContainerStatus {
	if old != nil && old.State.Waiting == nil && k != ephemeral && !in.Terminal && in.restartsAll() {
		return removed(c, old)
	}
	if old != nil && old.State.Terminated != nil && (k != regular || in.Terminal) {
		return *old // an ended init container may be removed at any time
	}
	s := v1.ContainerStatus{Name: c.Name, Image: c.Image, State: in.notYet(k)}
	if old != nil {
		s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
		if old.State.Terminated != nil {
			s.LastTerminationState = old.State
		}
		if old.State.Running != nil {
			in.vanished(&s, old)
		}
	}
	if why := in.Waiting[c.Name]; why != nil && s.State.Waiting != nil && !in.Terminal {
		s.State.Waiting = &v1.ContainerStateWaiting{Reason: why.Reason, Message: why.Message}
	}
	return s
}

// removed is the status of a container that was removed because all of the pod start anew.
func removed(c *v1.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	const message = "The container is removed because RestartAllContainers in place"
	return v1.ContainerStatus{
		Name: c.Name, Image: c.Image, RestartCount: old.RestartCount + 1,
		State:                v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonRestarting, Message: message}},
		LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reasonRestarting, Message: message, ExitCode: 137}},
	}
}

func (in *Input) notYet(k kind) v1.ContainerState {
	reason := reasonCreating
	if len(in.Pod.Spec.InitContainers) > 0 && k == regular {
		reason = reasonInitializing
	}
	if len(in.Pod.Spec.InitContainers) > 0 && k == initial {
		reason = reasonInitializing
	}
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}
}

// vanished tells that a container that ran is gone, and nobody knows how it ended.
func (in *Input) vanished(s, old *v1.ContainerStatus) {
	end := &v1.ContainerStateTerminated{
		Reason:      reasonUnknown,
		Message:     "The container could not be located when the pod was deleted.  The container used to be Running",
		ExitCode:    137,
		ContainerID: old.ContainerID,
	}
	if in.Terminal {
		end.Message = "The container could not be located when the pod was terminated"
		s.State = v1.ContainerState{Terminated: end}
		s.ImageID, s.ContainerID = old.ImageID, old.ContainerID
		return
	}
	s.LastTerminationState = v1.ContainerState{Terminated: end}
	if in.Pod.DeletionTimestamp == nil {
		s.RestartCount++
	}
}

func (in *Input) fromRuntime(c *v1.Container, have *containers.Container) v1.ContainerStatus {
	id := in.RuntimeName + "://" + have.ID
	s := v1.ContainerStatus{
		Name:         have.Name,
		Image:        cmp.Or(have.Image, c.Image),
		ImageID:      have.ImageRef,
		ContainerID:  id,
		RestartCount: int32(have.RestartCount),
		State:        stateOf(have, id),
		VolumeMounts: mountStatuses(c, have),
		User:         userOf(have),
		StopSignal:   containers.SignalName(have.StopSignal),
	}
	if strings.HasPrefix(c.Image, "sha256:") || !strings.HasPrefix(have.Image, "sha256:") {
		s.Image = cmp.Or(have.Image, c.Image)
	} else {
		s.Image = c.Image // the runtime knows only the digest
	}
	s.AllocatedResources = c.Resources.Requests.DeepCopy()
	s.Resources = in.resourcesOf(c, have)
	return s
}

func stateOf(c *containers.Container, id string) v1.ContainerState {
	switch {
	case c.Running():
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}}
	case c.Exited():
		reason := c.Reason
		if reason == "" && c.ExitCode == 0 {
			reason = "Completed"
		} else if reason == "" {
			reason = "Error"
		}
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode: c.ExitCode, Reason: reason, Message: c.Message, ContainerID: id,
			StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt),
		}}
	case c.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode: 137, Reason: reasonUnknown, Message: "The container could not be located when the pod was terminated", ContainerID: id,
		}}
	}
	return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}
}

// Below these the kernel's numbers no longer tell what was asked for.
const (
	leastCPULimit = 10 // thousandths of a CPU
	leastShares   = 2
)

// resourcesOf are the resources that a running container has: from the runtime, where it tells them, with the memory
// request, which no cgroup knows, as it was last granted. One that does not run has what it will be started with.
func (in *Input) resourcesOf(c *v1.Container, have *containers.Container) *v1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	if !have.Running() {
		return r
	}
	set := func(list v1.ResourceList, name v1.ResourceName, q *resource.Quantity) {
		if list != nil && !q.Equal(list[name]) {
			list[name] = *q
		}
	}
	linux := have.Resources.GetLinux()
	if bytes := linux.GetMemoryLimitInBytes(); bytes > 0 {
		set(r.Limits, v1.ResourceMemory, resource.NewQuantity(bytes, resource.BinarySI))
	}
	if linux.GetCpuQuota() > 0 && linux.GetCpuPeriod() > 0 {
		if milli := linux.GetCpuQuota() * 1000 / linux.GetCpuPeriod(); milli > leastCPULimit || r.Limits.Cpu().MilliValue() > leastCPULimit {
			set(r.Limits, v1.ResourceCPU, resource.NewMilliQuantity(milli, resource.DecimalSI))
		}
	}
	if shares := linux.GetCpuShares(); shares > 0 {
		milli := (shares*1000 + 1023) / 1024
		if milli > leastShares || r.Requests.Cpu().MilliValue() > leastShares {
			set(r.Requests, v1.ResourceCPU, resource.NewMilliQuantity(milli, resource.DecimalSI))
		}
	}
	if in.Actuated != nil {
		if given, known := in.Actuated(in.Pod.UID, c.Name); known {
			if q, asked := given.Requests[v1.ResourceMemory]; asked {
				set(r.Requests, v1.ResourceMemory, &q)
			}
		}
	}
	return r
}

func mountStatuses(c *v1.Container, have *containers.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			disabled := v1.RecursiveReadOnlyDisabled
			s.RecursiveReadOnly = &disabled
			for _, actual := range have.Mounts {
				if actual.GetContainerPath() == m.MountPath && actual.GetRecursiveReadOnly() {
					enabled := v1.RecursiveReadOnlyEnabled
					s.RecursiveReadOnly = &enabled
				}
			}
		}
		out = append(out, s)
	}
	return out
}

func userOf(c *containers.Container) *v1.ContainerUser {
	linux := c.User.GetLinux()
	if linux == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{
		UID: linux.GetUid(), GID: linux.GetGid(), SupplementalGroups: linux.GetSupplementalGroups(),
	}}
}
