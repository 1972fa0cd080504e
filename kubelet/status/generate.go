// SPDX-License-Identifier: Apache-2.0

// Package status says what the API is told about a pod, and tells it.
//
// generate.go, containers.go and conditions.go are pure: they turn a pod, what the runtime has for it and what the probes found
// into a PodStatus. manager.go writes the differences to the API, and deletes a pod's object when nothing of it is left.
package status

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// Input is all that a pod's status follows from.
type Input struct {
	Pod     *v1.Pod
	Old     *v1.PodStatus // what was last decided, or what the API has
	Runtime *containers.Status
	Waiting map[string]*containers.Waiting // why containers could not be started
	Probes  Probes
	// Terminal means that nothing of the pod runs any more, or ever will.
	Terminal bool
	// End is set when the node has decided that the pod is over, whatever its containers say.
	End *End
	// Resize are the conditions of a change of resources, and Resizing says that one is under way.
	Resize   []v1.PodCondition
	Resizing bool
	// Actuated is what a container was last given; nil when nobody knows.
	Actuated func(pod types.UID, container string) (v1.ResourceRequirements, bool)
	// Devices are those that a container has, and how they are; nil when nobody knows.
	Devices     func(*v1.Pod, *v1.Container) []v1.ResourceStatus
	HostIPs     []string
	RuntimeName string // the scheme of container IDs: "containerd"
}

// End is how a pod ended by the node's own decision.
type End struct {
	Phase           v1.PodPhase
	Reason, Message string
	Condition       *v1.PodCondition // besides the usual ones: DisruptionTarget
}

// Probes are the results of probes, by container ID.
type Probes interface {
	Readiness(containerID string) (ok, known bool)
	Startup(containerID string) (ok, known bool)
}

// Generate decides the status of a pod.
func Generate(in Input) v1.PodStatus {
	pod := in.Pod
	s := v1.PodStatus{
		ObservedGeneration:          observedGeneration(pod),
		QOSClass:                    qos.GetPodQOS(pod),
		StartTime:                   in.Old.StartTime,
		NominatedNodeName:           pod.Status.NominatedNodeName,
		ContainerStatuses:           in.containerStatuses(pod.Spec.Containers, in.Old.ContainerStatuses, regular),
		InitContainerStatuses:       in.containerStatuses(pod.Spec.InitContainers, in.Old.InitContainerStatuses, initial),
		EphemeralContainerStatuses:  in.containerStatuses(ephemeralSpecs(pod), in.Old.EphemeralContainerStatuses, ephemeral),
		Resize:                      pod.Status.Resize,
		ResourceClaimStatuses:       pod.Status.ResourceClaimStatuses,
		ExtendedResourceClaimStatus: pod.Status.ExtendedResourceClaimStatus,
		AllocatedResources:          resource.PodRequests(pod, resource.PodResourcesOptions{}),
		Resources:                   in.podResources(),
	}
	for _, ip := range in.Runtime.IPs {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
	started := containers.AnyRegularStarted(pod, in.Runtime)
	s.Phase = phase(pod, append(append([]v1.ContainerStatus(nil), s.ContainerStatuses...), s.InitContainerStatuses...), in.Terminal, started)
	in.keepTerminal(&s)
	in.probed(&s)
	in.conditions(&s)
	in.addresses(&s)
	in.hold(&s)
	return s
}

// podResources are what the pod as a whole has: what was granted, once that is in force.
func (in *Input) podResources() *v1.ResourceRequirements {
	if in.Resizing && in.Old.Resources != nil {
		return in.Old.Resources
	}
	r := in.Pod.Spec.Resources.DeepCopy()
	if r == nil {
		r = &v1.ResourceRequirements{}
	}
	r.Requests = resource.PodRequests(in.Pod, resource.PodResourcesOptions{})
	r.Limits = resource.PodLimits(in.Pod, resource.PodResourcesOptions{})
	return r
}

// hold keeps a final phase back while something of the pod still runs: who sees Failed or Succeeded may rely on its end.
func (in *Input) hold(s *v1.PodStatus) {
	if !isTerminal(s.Phase) || isTerminal(in.Old.Phase) || isTerminal(in.Pod.Status.Phase) || in.Terminal || len(in.Runtime.RunningContainers()) == 0 {
		return
	}
	s.Phase, s.Reason, s.Message = in.Old.Phase, in.Old.Reason, in.Old.Message
}

// observedGeneration follows the pod's generation, where the API server counts it.
func observedGeneration(pod *v1.Pod) int64 { return pod.Generation }

func ephemeralSpecs(pod *v1.Pod) []v1.Container {
	var specs []v1.Container
	for i := range pod.Spec.EphemeralContainers {
		specs = append(specs, v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return specs
}

// keepTerminal never lets a pod come back from Failed or Succeeded, and keeps the reason while the phase stays.
func (in *Input) keepTerminal(s *v1.PodStatus) {
	for _, was := range []v1.PodPhase{in.Pod.Status.Phase, in.Old.Phase} {
		if isTerminal(was) {
			s.Phase = was
		}
	}
	if in.End != nil && !isTerminal(in.Pod.Status.Phase) {
		s.Phase, s.Reason, s.Message = in.End.Phase, in.End.Reason, in.End.Message
		return
	}
	if s.Phase != in.Old.Phase {
		return
	}
	s.Reason, s.Message = in.Old.Reason, in.Old.Message
	if s.Reason == "" {
		s.Reason = in.Pod.Status.Reason
	}
	if s.Message == "" {
		s.Message = in.Pod.Status.Message
	}
}

func isTerminal(p v1.PodPhase) bool { return p == v1.PodFailed || p == v1.PodSucceeded }

// IsTerminal says whether a pod in that phase has ended for good.
func IsTerminal(p v1.PodPhase) bool { return isTerminal(p) }

func (in *Input) addresses(s *v1.PodStatus) {
	if len(s.PodIPs) == 0 && !in.Terminal { // between two sandboxes the old address still tells most
		s.PodIPs = in.Old.PodIPs
	}
	for _, ip := range in.HostIPs {
		s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
		if in.Pod.Spec.HostNetwork && len(s.PodIPs) < len(in.HostIPs) {
			s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
		}
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// phase sums a pod's containers up in one word.
func phase(pod *v1.Pod, all []v1.ContainerStatus, terminal, initialized bool) v1.PodPhase {
	pendingInit, pendingSidecar := 0, 0
	unknown, running, waiting := 0, 0, 0
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s := find(all, c.Name)
		if containers.IsSidecar(c) {
			switch {
			case s == nil:
				unknown++
			case s.State.Running != nil:
				if s.Started == nil || !*s.Started {
					pendingSidecar++
				}
				running++
			case s.State.Waiting != nil && s.LastTerminationState.Terminated == nil:
				pendingSidecar++
				waiting++
			}
			continue
		}
		ended := lastEnd(s)
		switch {
		case ended == nil:
			pendingInit++
		case ended.ExitCode != 0 && isFinal(pod, c, ended):
			return v1.PodFailed
		}
	}
	stopped, final, succeeded := 0, 0, 0
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		s := find(all, c.Name)
		ended := lastEnd(s)
		switch {
		case s == nil:
			unknown++
		case s.State.Running != nil:
			running++
		case ended != nil:
			stopped++
			if isFinal(pod, c, ended) {
				final++
			}
			if s.State.Terminated != nil && ended.ExitCode == 0 {
				succeeded++
			}
		default:
			waiting++
		}
	}
	switch {
	case pendingInit > 0, pendingSidecar > 0 && !initialized, waiting > 0:
		return v1.PodPending
	case running > 0 && unknown == 0:
		return v1.PodRunning
	case running > 0 || stopped == 0 || unknown > 0:
		return v1.PodPending
	case !terminal && stopped != final:
		return v1.PodRunning // something of it will be started again
	case stopped == succeeded:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

// isFinal says whether a container that has ended is not started again.
func isFinal(pod *v1.Pod, c *v1.Container, ended *v1.ContainerStateTerminated) bool {
	return ended.Reason != reasonRestarting && !containers.Restarts(pod, c, ended.ExitCode)
}

// lastEnd is how the container ended, also when it waits for its next start; nil while it never has, or runs.
func lastEnd(s *v1.ContainerStatus) *v1.ContainerStateTerminated {
	switch {
	case s == nil || s.State.Running != nil:
		return nil
	case s.State.Terminated != nil:
		return s.State.Terminated
	}
	return s.LastTerminationState.Terminated
}

func find(all []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}
