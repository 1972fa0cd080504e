// SPDX-License-Identifier: Apache-2.0

package simulated

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/status"
)

// runtimeName is the scheme of container IDs.
const runtimeName = "simulated"

// A container that has ended is started again after 10 s, and after twice as long each further time, up to 5 min.
const (
	backoffFirst = 10 * time.Second
	backoffMost  = 5 * time.Minute
)

// state is a pod as the runtime of its node has it. It has no I/O and no clock of its own.
type state struct {
	runtime containers.Status
	waiting map[string]*containers.Waiting
	seen    time.Time // when the node first heard of it
	newIP   func() string
	over    bool // nothing of it runs any more, or ever will
}

// newState makes the state of a pod, from its status if an earlier process has run it already.
func newState(pod *v1.Pod, newIP func() string, now time.Time) *state {
	s := &state{
		runtime: containers.Status{UID: pod.UID, Name: pod.Name, Namespace: pod.Namespace},
		waiting: make(map[string]*containers.Waiting), seen: now, newIP: newIP,
	}
	if pod.Status.StartTime == nil || pod.Status.PodIP == "" {
		return s
	}
	s.seen = pod.Status.StartTime.Time
	s.addSandbox(pod, 0, pod.Status.PodIP)
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			s.restore(pod, &list[i])
		}
	}
	return s
}

// restore takes a container over from what the API says of it.
func (s *state) restore(pod *v1.Pod, is *v1.ContainerStatus) {
	spec := containers.Spec(pod, is.Name)
	ended := is.State.Terminated
	if ended == nil {
		ended = is.LastTerminationState.Terminated
	}
	running := is.State.Running
	if spec == nil || ended == nil && running == nil {
		return
	}
	c := s.newContainer(spec, int(is.RestartCount), time.Time{})
	if running != nil {
		c.StartedAt = running.StartedAt.Time
	} else {
		c.StartedAt, c.FinishedAt, c.ExitCode = ended.StartedAt.Time, ended.FinishedAt.Time, ended.ExitCode
		c.State = runtimeapi.ContainerState_CONTAINER_EXITED
	}
	c.CreatedAt = c.StartedAt
	s.runtime.Containers = append(s.runtime.Containers, c)
}

// step moves the pod on to now. It returns its status, and when it is worth another look; zero for never.
func (s *state) step(pod *v1.Pod, old *v1.PodStatus, b behaviour, now time.Time) (v1.PodStatus, time.Time) {
	var next alarm
	end := s.deadline(pod, old, now, &next)
	switch {
	case pod.DeletionTimestamp != nil:
		since := pod.DeletionTimestamp.Add(-time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
		if until := since.Add(b.stopAfter); until.After(now) && len(s.runtime.RunningContainers()) > 0 && *pod.DeletionGracePeriodSeconds > 0 {
			next.at(until)
		} else {
			s.stop(now)
		}
	case end != nil || status.IsTerminal(old.Phase):
		s.stop(now)
	case s.seen.Add(b.startAfter).After(now) && len(s.runtime.Sandboxes) == 0:
		next.at(s.seen.Add(b.startAfter))
	default:
		s.run(pod, b, now, &next)
	}
	is := s.status(pod, old, end)
	if !s.over && status.IsTerminal(is.Phase) && len(s.runtime.RunningContainers()) == 0 {
		s.over = true
		is = s.status(pod, old, end)
	}
	if s.over {
		return is, time.Time{}
	}
	return is, next.time
}

// alarm is the earliest of some times.
type alarm struct{ time time.Time }

func (a *alarm) at(t time.Time) {
	if a.time.IsZero() || t.Before(a.time) {
		a.time = t
	}
}

// deadline says whether the pod has been active for longer than it may.
func (s *state) deadline(pod *v1.Pod, old *v1.PodStatus, now time.Time, next *alarm) *status.End {
	if pod.Spec.ActiveDeadlineSeconds == nil || old.StartTime == nil {
		return nil
	}
	until := old.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
	if until.After(now) {
		next.at(until)
		return nil
	}
	return &status.End{Phase: v1.PodFailed, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
}

// run does what the plan says until there is nothing left to do now.
func (s *state) run(pod *v1.Pod, b behaviour, now time.Time, next *alarm) {
	for progress := true; progress; {
		s.endContainers(pod, b, now, next)
		plan := containers.MakePlan(pod, &s.runtime, healthy{}, nil)
		if plan.KillPod {
			s.stop(now)
			s.over = !plan.CreateSandbox
		}
		if plan.CreateSandbox {
			s.addSandbox(pod, plan.Attempt, "")
			s.over = false
		}
		progress = plan.CreateSandbox
		for _, i := range plan.StartInit {
			progress = s.start(pod, &pod.Spec.InitContainers[i], b, now, next) || progress
		}
		for _, i := range plan.Start {
			progress = s.start(pod, &pod.Spec.Containers[i], b, now, next) || progress
		}
		for _, i := range plan.StartEphemeral {
			c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			progress = s.start(pod, &c, b, now, next) || progress
		}
	}
}

// endContainers ends those whose time has come. Init containers do their work in no time.
func (s *state) endContainers(pod *v1.Pod, b behaviour, now time.Time, next *alarm) {
	for _, c := range s.runtime.RunningContainers() {
		isInit := slices.ContainsFunc(pod.Spec.InitContainers, func(i v1.Container) bool { return i.Name == c.Name && !containers.IsSidecar(&i) })
		isMain := slices.ContainsFunc(pod.Spec.Containers, func(i v1.Container) bool { return i.Name == c.Name })
		switch until := c.StartedAt.Add(b.runFor); {
		case isInit:
			end(c, 0, now)
		case !isMain || b.runFor == 0:
		case until.After(now):
			next.at(until)
		default:
			end(c, b.exitCode, until)
		}
	}
}

func end(c *containers.Container, code int32, at time.Time) {
	c.State, c.ExitCode, c.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, at
}

// stop ends all containers and the sandbox.
func (s *state) stop(now time.Time) {
	for _, c := range s.runtime.RunningContainers() {
		end(c, 0, now)
	}
	for _, sandbox := range s.runtime.Sandboxes {
		sandbox.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	}
	s.runtime.IPs = nil
	s.over = true
}

// start starts a container, unless the pod is to wait or has to after its last end, and says whether it did.
func (s *state) start(pod *v1.Pod, c *v1.Container, b behaviour, now time.Time, next *alarm) bool {
	if b.waiting != nil {
		s.waiting[c.Name] = b.waiting
		return false
	}
	restarts := 0
	if last := s.runtime.Find(c.Name); last != nil {
		restarts = last.RestartCount + 1
		pause := min(backoffFirst<<min(last.RestartCount, 10), backoffMost)
		if until := last.FinishedAt.Add(pause); until.After(now) {
			s.waiting[c.Name] = &containers.Waiting{
				Reason:  containers.ReasonCrashLoop,
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", pause, c.Name, pod.Name, pod.Namespace, pod.UID),
			}
			next.at(until)
			return false
		}
	}
	delete(s.waiting, c.Name)
	s.forget(c.Name)
	s.runtime.Containers = slices.Insert(s.runtime.Containers, 0, s.newContainer(c, restarts, now))
	return true
}

// forget keeps no more than the latest container of a name.
func (s *state) forget(name string) {
	kept := false
	s.runtime.Containers = slices.DeleteFunc(s.runtime.Containers, func(c *containers.Container) bool {
		if c.Name != name {
			return false
		}
		drop := kept
		kept = true
		return drop
	})
}

func (s *state) newContainer(c *v1.Container, restarts int, now time.Time) *containers.Container {
	return &containers.Container{
		ID: fmt.Sprintf("%s-%s-%d", s.runtime.UID, c.Name, restarts), Name: c.Name, SandboxID: s.runtime.Sandboxes[0].GetId(),
		Image: c.Image, ImageRef: c.Image, Hash: containers.Hash(c), RestartCount: restarts,
		State: runtimeapi.ContainerState_CONTAINER_RUNNING, CreatedAt: now, StartedAt: now,
	}
}

// addSandbox gives the pod its network, with the address ip or a new one.
func (s *state) addSandbox(pod *v1.Pod, attempt uint32, ip string) {
	network := runtimeapi.NamespaceMode_POD
	s.runtime.IPs = nil
	switch {
	case pod.Spec.HostNetwork:
		network, ip = runtimeapi.NamespaceMode_NODE, ""
	case ip == "":
		ip = s.newIP()
	}
	if ip != "" {
		s.runtime.IPs = []string{ip}
	}
	s.runtime.Sandboxes = []*runtimeapi.PodSandboxStatus{{
		Id: fmt.Sprintf("%s-%d", pod.UID, attempt), Metadata: &runtimeapi.PodSandboxMetadata{Attempt: attempt},
		State: runtimeapi.PodSandboxState_SANDBOX_READY, Network: &runtimeapi.PodSandboxNetworkStatus{Ip: ip},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{Network: network}}},
	}}
}

func (s *state) status(pod *v1.Pod, old *v1.PodStatus, end *status.End) v1.PodStatus {
	return status.Generate(status.Input{
		Pod: pod, Old: old, Runtime: &s.runtime, Waiting: s.waiting, Probes: healthy{}, Terminal: s.over, End: end, RuntimeName: runtimeName,
	})
}

// healthy is what the probes of all containers find.
type healthy struct{}

func (healthy) Liveness(string) (ok, known bool)  { return true, true }
func (healthy) Readiness(string) (ok, known bool) { return true, true }
func (healthy) Startup(string) (ok, known bool)   { return true, true }
