// SPDX-License-Identifier: Apache-2.0

package status

import (
	"reflect"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// unready is what readiness probes of all containers say.
type unready struct{}

func (unready) Readiness(string) (ok, known bool) { return false, true }
func (unready) Startup(string) (ok, known bool)   { return true, true }

func container(name string, state runtimeapi.ContainerState, code int32) *containers.Container {
	return &containers.Container{ID: "id-" + name, Name: name, State: state, ExitCode: code, SandboxID: "s1"}
}

func status(cs ...*containers.Container) *containers.Status {
	return &containers.Status{Containers: cs, Sandboxes: []*runtimeapi.PodSandboxStatus{{
		Id: "s1", State: runtimeapi.PodSandboxState_SANDBOX_READY, Metadata: &runtimeapi.PodSandboxMetadata{},
	}}}
}

const (
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
)

func TestPhase(t *testing.T) {
	for name, c := range map[string]struct {
		policy   v1.RestartPolicy
		have     *containers.Status
		inits    []string
		terminal bool
		want     v1.PodPhase
	}{
		"nothing yet":              {v1.RestartPolicyAlways, status(), nil, false, v1.PodPending},
		"one of two":               {v1.RestartPolicyAlways, status(container("a", running, 0)), nil, false, v1.PodPending},
		"all run":                  {v1.RestartPolicyAlways, status(container("a", running, 0), container("b", running, 0)), nil, false, v1.PodRunning},
		"one ended, one runs":      {v1.RestartPolicyNever, status(container("a", running, 0), container("b", exited, 1)), nil, false, v1.PodRunning},
		"both ended, Always":       {v1.RestartPolicyAlways, status(container("a", exited, 0), container("b", exited, 0)), nil, false, v1.PodRunning},
		"both ended, Always, over": {v1.RestartPolicyAlways, status(container("a", exited, 0), container("b", exited, 0)), nil, true, v1.PodSucceeded},
		"both succeeded":           {v1.RestartPolicyOnFailure, status(container("a", exited, 0), container("b", exited, 0)), nil, false, v1.PodSucceeded},
		"one failed, OnFailure":    {v1.RestartPolicyOnFailure, status(container("a", exited, 0), container("b", exited, 1)), nil, false, v1.PodRunning},
		"one failed, Never":        {v1.RestartPolicyNever, status(container("a", exited, 0), container("b", exited, 1)), nil, false, v1.PodFailed},
		"init runs":                {v1.RestartPolicyNever, status(container("i", running, 0)), []string{"i"}, false, v1.PodPending},
		"init failed, Never":       {v1.RestartPolicyNever, status(container("i", exited, 2)), []string{"i"}, false, v1.PodFailed},
		"init failed, Always":      {v1.RestartPolicyAlways, status(container("i", exited, 2)), []string{"i"}, false, v1.PodPending},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: c.policy, Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}}
			for _, i := range c.inits {
				pod.Spec.InitContainers = append(pod.Spec.InitContainers, v1.Container{Name: i})
			}
			s := Generate(Input{Pod: pod, Old: &v1.PodStatus{}, Runtime: c.have, Probes: unready{}, Terminal: c.terminal})
			if s.Phase != c.want {
				t.Errorf("phase = %s, want %s", s.Phase, c.want)
			}
		})
	}
}

// Ready needs the readiness probe and the readiness gates, and says what is missing.
func TestReadiness(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{
		Containers:     []v1.Container{{Name: "a", ReadinessProbe: &v1.Probe{}}},
		ReadinessGates: []v1.PodReadinessGate{{ConditionType: "example.com/ok"}},
	}}
	in := Input{Pod: pod, Old: &v1.PodStatus{}, Runtime: status(container("a", running, 0)), Probes: unready{}}
	s := Generate(in)
	if c := condition(s.Conditions, v1.PodReady); c.Status != v1.ConditionFalse || c.Reason != "ContainersNotReady" || c.Message != "containers with unready status: [a]" {
		t.Errorf("Ready = %+v", c)
	}
	pod.Spec.Containers[0].ReadinessProbe = nil
	s = Generate(in)
	if c := condition(s.Conditions, v1.PodReady); c.Reason != "ReadinessGatesNotReady" || condition(s.Conditions, v1.ContainersReady).Status != v1.ConditionTrue {
		t.Errorf("Ready = %+v", c)
	}
	pod.Status.Conditions = []v1.PodCondition{{Type: "example.com/ok", Status: v1.ConditionTrue}}
	s = Generate(in)
	if c := condition(s.Conditions, v1.PodReady); c.Status != v1.ConditionTrue {
		t.Errorf("Ready = %+v", c)
	}
}

// A container's image is named as the runtime resolved it.
func TestImageOfContainer(t *testing.T) {
	have := container("a", running, 0)
	have.Image, have.ImageRef = "example.org/a:1", "example.org/a@sha256:12"
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a", Image: "example.org/a:1"}}}}
	s := Generate(Input{Pod: pod, Old: &v1.PodStatus{}, Runtime: status(have), Probes: unready{}})
	if got := s.ContainerStatuses[0]; got.Image != have.Image || got.ImageID != have.ImageRef {
		t.Errorf("image = %q, ID %q", got.Image, got.ImageID)
	}
}

// What is known of a container's devices stays when it has given them back.
func TestDevicesOfContainers(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{{Name: "i"}}, Containers: []v1.Container{{Name: "a"}, {Name: "b"}}}}
	have := []v1.ResourceStatus{{Name: "example.org/gpu", Resources: []v1.ResourceHealth{{ResourceID: "d1", Health: v1.ResourceHealthStatusUnhealthy}}}}
	in := Input{Pod: pod, Old: &v1.PodStatus{}, Runtime: status(container("a", running, 0), container("b", running, 0)), Probes: unready{}}
	in.Devices = func(_ *v1.Pod, c *v1.Container) []v1.ResourceStatus {
		if c.Name == "b" {
			return nil
		}
		return have
	}
	s := Generate(in)
	if !reflect.DeepEqual(s.ContainerStatuses[0].AllocatedResourcesStatus, have) || s.ContainerStatuses[1].AllocatedResourcesStatus != nil || s.InitContainerStatuses[0].AllocatedResourcesStatus != nil {
		t.Errorf("statuses %v and %v, want the devices of a", s.InitContainerStatuses, s.ContainerStatuses)
	}
	in.Old, in.Devices = &s, func(*v1.Pod, *v1.Container) []v1.ResourceStatus { return nil }
	if s := Generate(in); !reflect.DeepEqual(s.ContainerStatuses[0].AllocatedResourcesStatus, have) {
		t.Errorf("given back: %v", s.ContainerStatuses[0].AllocatedResourcesStatus)
	}
}

// A container that ran and is gone is told as such, and counted.
func TestVanishedContainer(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways, Containers: []v1.Container{{Name: "a"}}}}
	old := &v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{
		Name: "a", RestartCount: 1, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}},
	}}}
	s := Generate(Input{Pod: pod, Old: old, Runtime: &containers.Status{}, Probes: unready{}})
	cs := s.ContainerStatuses[0]
	if cs.RestartCount != 2 || cs.LastTerminationState.Terminated == nil || cs.LastTerminationState.Terminated.Reason != "ContainerStatusUnknown" || s.Phase != v1.PodRunning {
		t.Errorf("status = %+v", s)
	}
}

// How a container ended that was removed is still told when the one after it has ended, too; but nothing is told twice.
func TestEndOfRemovedContainer(t *testing.T) {
	ended := func(id string) v1.ContainerState {
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed", ContainerID: id}}
	}
	removed := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "RestartingAllContainers", ExitCode: 137}}
	waits := v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "RestartingAllContainers"}}
	for what, c := range map[string]struct{ state, last, want v1.ContainerState }{
		"all were started anew":     {waits, removed, removed},
		"the one before was pruned": {ended("containerd://id-before"), v1.ContainerState{}, ended("containerd://id-before")},
		"it is told already":        {ended("containerd://id-init"), removed, removed},
		"it waited to be restarted": {waits, ended("containerd://id-init"), v1.ContainerState{}},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{{Name: "init"}}, Containers: []v1.Container{{Name: "a"}}}}
		old := &v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{{Name: "init", ContainerID: "containerd://id-before", State: c.state, LastTerminationState: c.last}}}
		if c.state.Terminated != nil {
			old.InitContainerStatuses[0].ContainerID = c.state.Terminated.ContainerID
		}
		s := Generate(Input{Pod: pod, Old: old, Runtime: status(container("init", exited, 0)), Probes: unready{}, RuntimeName: "containerd"}).InitContainerStatuses[0]
		if s.State.Terminated == nil || !reflect.DeepEqual(s.LastTerminationState, c.want) {
			t.Errorf("%s: last state %+v, want %+v", what, s.LastTerminationState, c.want)
		}
	}
}

// What others wrote into the status stays, and a final phase is final.
func TestMerge(t *testing.T) {
	pod := &v1.Pod{Status: v1.PodStatus{Phase: v1.PodFailed, QOSClass: v1.PodQOSBurstable, Conditions: []v1.PodCondition{{Type: "example.com/ok", Status: v1.ConditionTrue}}}}
	s := merge(pod, &v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionFalse}}})
	if s.Phase != v1.PodFailed || s.QOSClass != v1.PodQOSBurstable || len(s.Conditions) != 2 {
		t.Errorf("merged = %+v", s)
	}
}

// When a pod has changed, all conditions that the node writes speak of its new generation, that of its scheduling too, which has not changed.
func TestConditionsFollowGeneration(t *testing.T) {
	scheduled := metav1.NewTime(time.Unix(1000, 0))
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "a"}}}, Status: v1.PodStatus{Conditions: []v1.PodCondition{
		{Type: v1.PodScheduled, Status: v1.ConditionTrue, ObservedGeneration: 1, LastTransitionTime: scheduled},
	}}}
	want := Generate(Input{Pod: pod, Old: &pod.Status, Runtime: status(container("a", running, 0)), Probes: unready{}})
	for _, c := range merge(pod, &want).Conditions {
		if c.ObservedGeneration != 2 || c.Type == v1.PodScheduled && !c.LastTransitionTime.Equal(&scheduled) {
			t.Errorf("%+v", c)
		}
	}
}
