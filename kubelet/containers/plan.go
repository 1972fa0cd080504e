// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Plan is what must be done next to bring a pod from its Status to its spec.
//
// KillPod excludes Kill: either the whole pod is stopped, or single containers are. Resize comes between killing and starting.
type Plan struct {
	KillPod       bool
	CreateSandbox bool
	SandboxID     string // the newest one; empty when there is none
	Attempt       uint32

	Kill           []Kill
	Resize         []Resize // running containers to be given other resources
	ResizePod      bool     // the pod as a whole has to be, too
	StartEphemeral []int    // indexes into the lists of the spec, in starting order
	StartInit      []int
	Start          []int
}

// Kill names a running container to end, and why.
type Kill struct {
	Container *Container
	Spec      *v1.Container
	Message   string
	Why       Why
}

// Resize names a running container whose resources differ from what it was given.
type Resize struct {
	Container *Container
	Spec      *v1.Container
}

// Why decides which grace period applies.
type Why int

// The reasons with a grace period of their own.
const (
	WhyOther Why = iota
	WhyLiveness
	WhyStartup
)

// Health is what the probes found, by container ID. Known is false until a probe has run.
type Health interface {
	Liveness(containerID string) (ok, known bool)
	Startup(containerID string) (ok, known bool)
}

// MakePlan compares a pod with its status. It does no I/O and keeps nothing.
func MakePlan(pod *v1.Pod, status *Status, health Health, grants Grants) (plan Plan) {
	create, attempt, sandboxID, _ := SandboxNeeded(pod, status)
	plan = Plan{KillPod: create, CreateSandbox: create, SandboxID: sandboxID, Attempt: attempt}
	defer plan.resizeForStart(pod, grants)
	if create {
		plan.restart(pod, status)
		return plan
	}
	for i := range pod.Spec.EphemeralContainers { // started once, whatever the others do
		if status.Find(pod.Spec.EphemeralContainers[i].Name) == nil {
			plan.StartEphemeral = append(plan.StartEphemeral, i)
		}
	}
	plan.ResizePod = podResized(pod, grants)
	if initialized := plan.initContainers(pod, status, health, grants); plan.KillPod || !initialized {
		return plan
	}
	kept := 0
	for i := range pod.Spec.Containers {
		if plan.regular(pod, status, health, grants, i) {
			kept++
		}
	}
	if kept == 0 && len(plan.Start) == 0 {
		plan.KillPod = true
		plan.StartInit = nil // a sidecar must not keep a finished pod alive
		plan.Kill, plan.Resize, plan.ResizePod = nil, nil, false
	}
	return plan
}

// SandboxNeeded says whether the pod must have a new sandbox, its attempt number, the ID of the one it has,
// and what is wrong with that.
func SandboxNeeded(pod *v1.Pod, status *Status) (needed bool, attempt uint32, id, reason string) {
	if len(status.Sandboxes) == 0 {
		return true, 0, "", "No sandbox for pod can be found"
	}
	ready := 0
	for _, s := range status.Sandboxes {
		if s.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY {
			ready++
		}
	}
	newest := status.Sandboxes[0]
	next := newest.GetMetadata().GetAttempt() + 1
	switch {
	case ready > 1:
		return true, next, newest.GetId(), "Multiple sandboxes are ready for pod"
	case newest.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY:
		return true, next, newest.GetId(), "No ready sandbox for pod can be found"
	case newest.GetLinux().GetNamespaces().GetOptions().GetNetwork() != networkMode(pod):
		return true, next, "", "Sandbox network namespace has changed"
	case !pod.Spec.HostNetwork && newest.GetNetwork() != nil && newest.GetNetwork().GetIp() == "":
		return true, next, newest.GetId(), "Sandbox has no IP address"
	}
	return false, newest.GetMetadata().GetAttempt(), newest.GetId(), ""
}

// restart plans the pod from its beginning in a new sandbox, unless it is already done.
func (p *Plan) restart(pod *v1.Pod, status *Status) {
	if pod.Spec.RestartPolicy == v1.RestartPolicyNever && p.Attempt != 0 && len(status.Containers) != 0 {
		p.CreateSandbox = false
		return
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		last := status.Find(c.Name)
		if restartPolicy(pod, c) == v1.RestartPolicyOnFailure && last != nil && last.Exited() && last.ExitCode == 0 {
			continue
		}
		p.Start = append(p.Start, i)
	}
	if len(p.Start) == 0 && anyRegularCreated(pod, status) {
		p.CreateSandbox = false
		return
	}
	if len(pod.Spec.InitContainers) > 0 {
		p.Start, p.StartInit = nil, []int{0}
	}
}

// initContainers plans the init containers, newest progress first, and says whether the regular ones may start.
func (p *Plan) initContainers(pod *v1.Pod, status *Status, health Health, grants Grants) (initialized bool) {
	inits := pod.Spec.InitContainers
	if len(inits) == 0 {
		return true
	}
	initialized = AnyRegularStarted(pod, status)
	passed := initialized // a later container ran already, so the earlier ones are done
	for i := len(inits) - 1; i >= 0; i-- {
		c, now := &inits[i], status.FindActive(inits[i].Name)
		if now == nil {
			if passed && IsSidecar(c) {
				p.StartInit = append(p.StartInit, i)
			}
			continue
		}
		if passed && !IsSidecar(c) {
			continue
		}
		var done bool
		if IsSidecar(c) {
			done = p.sidecar(pod, i, c, now, health, grants)
		} else {
			done = p.initContainer(pod, i, c, now, grants)
			if p.KillPod {
				p.StartInit = nil
				return false
			}
		}
		switch {
		case done && i == len(inits)-1:
			initialized = true
		case done && !passed:
			p.StartInit = append(p.StartInit, i+1)
		}
		passed = true
	}
	if !passed {
		p.StartInit = append(p.StartInit, 0)
	}
	slices.Sort(p.StartInit)
	return initialized
}

// sidecar plans a restartable init container and says whether what comes after it may start.
func (p *Plan) sidecar(pod *v1.Pod, i int, c *v1.Container, now *Container, health Health, grants Grants) (done bool) {
	switch {
	case now.Running():
		if c.StartupProbe != nil {
			ok, known := health.Startup(now.ID)
			if known && !ok {
				p.replaceInit(i, c, now, fmt.Sprintf("Init container %s failed startup probe", c.Name), WhyStartup)
			}
			if !known || !ok {
				return false
			}
		}
		if now.Hash != Hash(c) {
			p.replaceInit(i, c, now, fmt.Sprintf("Init container %s definition changed", c.Name), WhyOther)
		} else if ok, known := health.Liveness(now.ID); c.LivenessProbe != nil && known && !ok {
			p.replaceInit(i, c, now, fmt.Sprintf("Init container %s failed liveness probe", c.Name), WhyLiveness)
		} else if p.resize(pod, c, now, grants) {
			p.replaceInit(i, c, now, fmt.Sprintf("Container %s resize requires restart", c.Name), WhyOther)
		}
		return true
	case now.unknown():
		p.replaceInit(i, c, now, fmt.Sprintf("Init container is in %q state, try killing it before restart", now.stateText()), WhyOther)
	default: // created or exited
		p.StartInit = append(p.StartInit, i)
	}
	return false
}

// initContainer plans an init container that must end before the next one starts.
func (p *Plan) initContainer(pod *v1.Pod, i int, c *v1.Container, now *Container, grants Grants) (done bool) {
	switch {
	case now.Running():
		p.resize(pod, c, now, grants) // validation lets none of these ask for a restart
		return false
	case now.Exited() && now.ExitCode == 0 && now.Reason != reasonOOMKilled:
		return true
	case now.Exited() && !restarts(pod, c, now.ExitCode), now.unknown() && restartPolicy(pod, c) == v1.RestartPolicyNever:
		p.KillPod = true
	case now.unknown():
		p.replaceInit(i, c, now, fmt.Sprintf("Init container is in %q state, try killing it before restart", now.stateText()), WhyOther)
	default: // created, or failed and to be tried again
		p.StartInit = append(p.StartInit, i)
	}
	return false
}

const reasonOOMKilled = "OOMKilled"

func (p *Plan) replaceInit(i int, c *v1.Container, now *Container, message string, why Why) {
	p.Kill = append(p.Kill, Kill{Container: now, Spec: c, Message: message, Why: why})
	p.StartInit = append(p.StartInit, i)
}

// regular plans one regular container and says whether it keeps running as it is.
func (p *Plan) regular(pod *v1.Pod, status *Status, health Health, grants Grants, i int) (kept bool) {
	c := &pod.Spec.Containers[i]
	now := status.Find(c.Name)
	if now == nil || !now.Running() {
		if !ShouldStart(pod, status, c) {
			return false
		}
		p.Start = append(p.Start, i)
		if now != nil && now.unknown() { // it may run in truth: never have two of it
			message := fmt.Sprintf("Container is in %q state, try killing it before restart", now.stateText())
			p.Kill = append(p.Kill, Kill{Container: now, Spec: c, Message: message})
		}
		return false
	}
	again := restartPolicy(pod, c) != v1.RestartPolicyNever
	kill := Kill{Container: now, Spec: c}
	liveOK, liveKnown := health.Liveness(now.ID)
	startOK, startKnown := health.Startup(now.ID)
	switch {
	case now.Hash != Hash(c):
		kill.Message, again = fmt.Sprintf("Container %s definition changed", c.Name), true
	case c.LivenessProbe != nil && liveKnown && !liveOK:
		kill.Message, kill.Why = fmt.Sprintf("Container %s failed liveness probe", c.Name), WhyLiveness
	case c.StartupProbe != nil && startKnown && !startOK:
		kill.Message, kill.Why = fmt.Sprintf("Container %s failed startup probe", c.Name), WhyStartup
	case p.resize(pod, c, now, grants):
		kill.Message = fmt.Sprintf("Container %s resize requires restart", c.Name)
		p.Start, p.Kill = append(p.Start, i), append(p.Kill, kill)
		return false
	default:
		return true
	}
	if again {
		kill.Message += ", will be restarted"
		p.Start = append(p.Start, i)
	}
	p.Kill = append(p.Kill, kill)
	return false
}

// ShouldStart says whether a container that does not run has to be started (again).
func ShouldStart(pod *v1.Pod, status *Status, c *v1.Container) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	now := status.Find(c.Name)
	switch {
	case now == nil:
		return true
	case now.Running():
		return false
	case now.Exited():
		return restarts(pod, c, now.ExitCode)
	}
	return true // created or unknown
}

// Restarts says whether a container that ended with that code is to be started again.
func Restarts(pod *v1.Pod, c *v1.Container, exitCode int32) bool { return restarts(pod, c, exitCode) }

func restarts(pod *v1.Pod, c *v1.Container, exitCode int32) bool {
	if matchingRule(c, exitCode) != nil {
		return true // all actions start it again, alone or with all others
	}
	switch restartPolicy(pod, c) {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// matchingRule is the rule of a container for its end, nil if it has none.
func matchingRule(c *v1.Container, exitCode int32) *v1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		if rule := &c.RestartPolicyRules[i]; rule.ExitCodes != nil && exitCodeMatches(rule.ExitCodes, exitCode) {
			return rule
		}
	}
	return nil
}

func exitCodeMatches(on *v1.ContainerRestartRuleOnExitCodes, code int32) bool {
	in := slices.Contains(on.Values, code)
	return in == (on.Operator == v1.ContainerRestartRuleOnExitCodesOpIn)
}

// restartPolicy is the container's own, else the pod's; an init container under Always is tried again on failure only.
func restartPolicy(pod *v1.Pod, c *v1.Container) v1.RestartPolicy {
	if c.RestartPolicy != nil {
		return v1.RestartPolicy(*c.RestartPolicy)
	}
	return pod.Spec.RestartPolicy
}

// AnyRegularStarted says whether a regular container of the ready sandbox was ever started.
func AnyRegularStarted(pod *v1.Pod, status *Status) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool {
		now := status.FindActive(c.Name)
		return now != nil && (now.Running() || now.Exited())
	})
}

func anyRegularCreated(pod *v1.Pod, status *Status) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool {
		now := status.Find(c.Name)
		return now != nil && !now.unknown()
	})
}

func networkMode(pod *v1.Pod) runtimeapi.NamespaceMode {
	if pod.Spec.HostNetwork {
		return runtimeapi.NamespaceMode_NODE
	}
	return runtimeapi.NamespaceMode_POD
}
