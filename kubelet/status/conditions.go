// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// kubeletConditions are those that only a node may write; all others are kept as they are in the API.
var kubeletConditions = []v1.PodConditionType{
	v1.PodScheduled, v1.PodReady, v1.PodInitialized, v1.ContainersReady, v1.PodReadyToStartContainers,
	v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting,
}

// probed fills in started and ready of each container.
func (in *Input) probed(s *v1.PodStatus) {
	for i := range s.ContainerStatuses {
		in.probedOne(&s.ContainerStatuses[i])
	}
	for i := range s.InitContainerStatuses {
		cs := &s.InitContainerStatuses[i]
		c := containers.Spec(in.Pod, cs.Name)
		if containers.IsSidecar(c) {
			in.probedOne(cs)
			continue
		}
		started := false
		cs.Started = &started
		cs.Ready = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
	}
	for i := range s.EphemeralContainerStatuses {
		s.EphemeralContainerStatuses[i].Ready = false
	}
}

func (in *Input) probedOne(cs *v1.ContainerStatus) {
	c := containers.Spec(in.Pod, cs.Name)
	_, id, _ := strings.Cut(cs.ContainerID, "://")
	started := cs.State.Running != nil
	if started && c.StartupProbe != nil {
		ok, known := in.Probes.Startup(id)
		started = ok && known
	}
	cs.Started = &started
	cs.Ready = started
	if started && c.ReadinessProbe != nil {
		ok, known := in.Probes.Readiness(id)
		cs.Ready = ok && known
	}
}

func (in *Input) conditions(s *v1.PodStatus) {
	for _, c := range in.Pod.Status.Conditions {
		if !slices.Contains(kubeletConditions, c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	if in.End != nil && in.End.Condition != nil {
		s.Conditions = slices.DeleteFunc(s.Conditions, func(c v1.PodCondition) bool { return c.Type == in.End.Condition.Type })
		s.Conditions = append(s.Conditions, *in.End.Condition)
	}
	if c := condition(in.Old.Conditions, v1.DisruptionTarget); c != nil && condition(s.Conditions, v1.DisruptionTarget) == nil {
		s.Conditions = append(s.Conditions, *c)
	}
	if !in.Terminal {
		s.Conditions = append(s.Conditions, in.Resize...)
	}
	containersReady := in.containersReady(s)
	s.Conditions = append(s.Conditions,
		in.readyToStart(), in.initialized(s), in.podReady(s, containersReady), containersReady,
		v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue})
	if containers.MayRestartAll(in.Pod) {
		s.Conditions = append(s.Conditions, in.restarting(s))
	}
	for i := range s.Conditions {
		in.stamp(&s.Conditions[i])
	}
}

// stamp keeps the time of the last change and says which generation the condition speaks of.
func (in *Input) stamp(c *v1.PodCondition) {
	if !slices.Contains(kubeletConditions, c.Type) {
		return
	}
	if c.ObservedGeneration == 0 {
		c.ObservedGeneration = in.Pod.Generation
	}
	if !c.LastTransitionTime.IsZero() {
		return
	}
	if old := condition(in.Old.Conditions, c.Type); old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
		return
	}
	if was := condition(in.Pod.Status.Conditions, c.Type); was != nil && was.Status == c.Status {
		c.LastTransitionTime = was.LastTransitionTime
		return
	}
	c.LastTransitionTime = metav1.Now().Rfc3339Copy()
}

func condition(all []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	for i := range all {
		if all[i].Type == t {
			return &all[i]
		}
	}
	return nil
}

// restarting says whether all containers of the pod are being removed, to be started anew.
func (in *Input) restarting(s *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case s.Phase == v1.PodSucceeded:
		c.Reason = "PodCompleted"
	case s.Phase == v1.PodFailed:
		c.Reason = "PodFailed"
	case in.restartsAll() && !containers.Removed(in.Pod, in.Runtime):
		c.Status, c.Reason, c.Message = v1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return c
}

// restartsAll says whether the pod's containers were being removed, or are to be.
func (in *Input) restartsAll() bool {
	return Restarting(in.Old) || containers.RestartsAll(in.Pod, in.Runtime)
}

// Restarting says whether all containers of a pod with that status are being removed, to be started anew.
func Restarting(s *v1.PodStatus) bool {
	c := condition(s.Conditions, v1.AllContainersRestarting)
	return c != nil && c.Status == v1.ConditionTrue
}

func (in *Input) readyToStart() v1.PodCondition {
	if needed, _, _, _ := containers.SandboxNeeded(in.Pod, in.Runtime); needed {
		return v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse}
	}
	return v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue}
}

func (in *Input) initialized(s *v1.PodStatus) v1.PodCondition {
	yes := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	var unknown, incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		cs := find(s.InitContainerStatuses, c.Name)
		switch {
		case cs == nil:
			unknown = append(unknown, c.Name)
		case containers.IsSidecar(c) && (cs.Started == nil || !*cs.Started), !containers.IsSidecar(c) && !cs.Ready:
			incomplete = append(incomplete, c.Name)
		}
	}
	if s.Phase == v1.PodSucceeded && len(unknown) == 0 {
		yes.Reason = "PodCompleted"
		return yes
	}
	anyStarted := slices.ContainsFunc(s.ContainerStatuses, func(cs v1.ContainerStatus) bool {
		return cs.State.Running != nil || cs.State.Terminated != nil || cs.LastTerminationState.Terminated != nil
	})
	message := unreadyMessage(unknown, incomplete, "incomplete")
	if anyStarted || message == "" {
		return yes
	}
	return v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionFalse, Reason: "ContainersNotInitialized", Message: message}
}

func (in *Input) containersReady(s *v1.PodStatus) v1.PodCondition {
	no := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	var unknown, unready []string
	check := func(name string, cs *v1.ContainerStatus) {
		if cs == nil {
			unknown = append(unknown, name)
		} else if !cs.Ready {
			unready = append(unready, name)
		}
	}
	for i := range in.Pod.Spec.InitContainers {
		if c := &in.Pod.Spec.InitContainers[i]; containers.IsSidecar(c) {
			check(c.Name, find(s.InitContainerStatuses, c.Name))
		}
	}
	for i := range in.Pod.Spec.Containers {
		name := in.Pod.Spec.Containers[i].Name
		check(name, find(s.ContainerStatuses, name))
	}
	switch {
	case s.Phase == v1.PodSucceeded && len(unknown) == 0:
		no.Reason = "PodCompleted"
		return no
	case s.Phase == v1.PodFailed:
		no.Reason = "PodFailed"
		return no
	}
	if no.Message = unreadyMessage(unknown, unready, "unready"); no.Message != "" {
		no.Reason = "ContainersNotReady"
		return no
	}
	return v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
}

func unreadyMessage(unknown, others []string, what string) string {
	var messages []string
	if len(unknown) > 0 {
		messages = append(messages, fmt.Sprintf("containers with unknown status: %s", unknown))
	}
	if len(others) > 0 {
		messages = append(messages, fmt.Sprintf("containers with %s status: %s", what, others))
	}
	return strings.Join(messages, ", ")
}

func (in *Input) podReady(s *v1.PodStatus, containersReady v1.PodCondition) v1.PodCondition {
	c := containersReady
	c.Type = v1.PodReady
	if c.Status != v1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		switch have := condition(s.Conditions, gate.ConditionType); {
		case have == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		case have.Status != v1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), have.Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}
