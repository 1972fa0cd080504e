// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"reflect"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// health is what probes found: container IDs that are sick.
type health struct{ live, startup map[string]bool }

func (h health) Liveness(id string) (ok, known bool) { ok, known = h.live[id]; return }
func (h health) Startup(id string) (ok, known bool)  { ok, known = h.startup[id]; return }

const (
	running = runtimeapi.ContainerState_CONTAINER_RUNNING
	exited  = runtimeapi.ContainerState_CONTAINER_EXITED
	unknown = runtimeapi.ContainerState_CONTAINER_UNKNOWN
)

// have builds a status with one ready sandbox; newest container first.
func have(cs ...*Container) *Status {
	s := &Status{Sandboxes: []*runtimeapi.PodSandboxStatus{{
		Id: "s1", Metadata: &runtimeapi.PodSandboxMetadata{}, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{}}},
	}}}
	for _, c := range cs {
		c.SandboxID = "s1"
		s.Containers = append(s.Containers, c)
	}
	return s
}

func is(name string, state runtimeapi.ContainerState, code int32) *Container {
	return &Container{ID: "id-" + name, Name: name, State: state, ExitCode: code, Hash: Hash(&v1.Container{Name: name})}
}

func pod(policy v1.RestartPolicy, names ...string) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: policy}}
	for _, n := range names {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: n, LivenessProbe: &v1.Probe{}, StartupProbe: &v1.Probe{}})
	}
	return p
}

func with(p *v1.Pod, inits ...v1.Container) *v1.Pod {
	p.Spec.InitContainers = inits
	return p
}

func sidecar(name string) v1.Container {
	always := v1.ContainerRestartPolicyAlways
	return v1.Container{Name: name, RestartPolicy: &always}
}

func TestMakePlan(t *testing.T) {
	rule := pod(v1.RestartPolicyNever, "a")
	rule.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{
		Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
	stopped := have(is("a", exited, 0))
	stopped.Sandboxes[0].State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	changed := is("a", running, 0)
	changed.Hash = "other"
	type want struct {
		create, killPod bool
		kill            []string
		init, start     []int
	}
	for name, c := range map[string]struct {
		pod    *v1.Pod
		status *Status
		health health
		want   want
	}{
		"new pod":                            {pod(v1.RestartPolicyAlways, "a", "b"), &Status{}, health{}, want{create: true, killPod: true, start: []int{0, 1}}},
		"new pod with init":                  {with(pod(v1.RestartPolicyAlways, "a"), v1.Container{Name: "i"}), &Status{}, health{}, want{create: true, killPod: true, init: []int{0}}},
		"nothing to do":                      {pod(v1.RestartPolicyAlways, "a"), have(is("a", running, 0)), health{}, want{}},
		"restart under Always":               {pod(v1.RestartPolicyAlways, "a", "b"), have(is("a", running, 0), is("b", exited, 0)), health{}, want{start: []int{1}}},
		"no restart of a success":            {pod(v1.RestartPolicyOnFailure, "a", "b"), have(is("a", running, 0), is("b", exited, 0)), health{}, want{}},
		"restart of a failure":               {pod(v1.RestartPolicyOnFailure, "a"), have(is("a", exited, 1)), health{}, want{start: []int{0}}},
		"all ended under Never":              {pod(v1.RestartPolicyNever, "a"), have(is("a", exited, 1)), health{}, want{killPod: true}},
		"rule matches the code":              {rule, have(is("a", exited, 42)), health{}, want{start: []int{0}}},
		"rule does not match":                {rule, have(is("a", exited, 1)), health{}, want{killPod: true}},
		"unknown state":                      {pod(v1.RestartPolicyAlways, "a"), have(is("a", unknown, 0)), health{}, want{kill: []string{"a"}, start: []int{0}}},
		"changed image":                      {pod(v1.RestartPolicyNever, "a"), have(changed), health{}, want{kill: []string{"a"}, start: []int{0}}},
		"failed liveness":                    {pod(v1.RestartPolicyAlways, "a"), have(is("a", running, 0)), health{live: map[string]bool{"id-a": false}}, want{kill: []string{"a"}, start: []int{0}}},
		"failed startup under Never":         {pod(v1.RestartPolicyNever, "a", "b"), have(is("a", running, 0), is("b", running, 0)), health{startup: map[string]bool{"id-a": false}}, want{kill: []string{"a"}}},
		"dead sandbox":                       {pod(v1.RestartPolicyAlways, "a"), stopped, health{}, want{create: true, killPod: true, start: []int{0}}},
		"dead sandbox of a finished pod":     {pod(v1.RestartPolicyOnFailure, "a"), stopped, health{}, want{killPod: true}},
		"first init runs":                    {with(pod(v1.RestartPolicyAlways, "a"), v1.Container{Name: "i"}, v1.Container{Name: "j"}), have(is("i", running, 0)), health{}, want{}},
		"second init follows":                {with(pod(v1.RestartPolicyAlways, "a"), v1.Container{Name: "i"}, v1.Container{Name: "j"}), have(is("i", exited, 0)), health{}, want{init: []int{1}}},
		"failed init again":                  {with(pod(v1.RestartPolicyAlways, "a"), v1.Container{Name: "i"}), have(is("i", exited, 1)), health{}, want{init: []int{0}}},
		"failed init under Never":            {with(pod(v1.RestartPolicyNever, "a"), v1.Container{Name: "i"}), have(is("i", exited, 1)), health{}, want{killPod: true}},
		"inits done":                         {with(pod(v1.RestartPolicyAlways, "a"), v1.Container{Name: "i"}), have(is("i", exited, 0)), health{}, want{start: []int{0}}},
		"sidecar runs, main follows":         {with(pod(v1.RestartPolicyAlways, "a"), sidecar("s")), have(is("s", running, 0)), health{}, want{start: []int{0}}},
		"dead sidecar beside main":           {with(pod(v1.RestartPolicyAlways, "a"), sidecar("s")), have(is("a", running, 0), is("s", exited, 0)), health{}, want{init: []int{0}}},
		"sidecar does not outlive main":      {with(pod(v1.RestartPolicyNever, "a"), sidecar("s")), have(is("a", exited, 0), is("s", exited, 0)), health{}, want{killPod: true}},
		"init is not repeated once main ran": {with(pod(v1.RestartPolicyAlways, "a"), v1.Container{Name: "i"}), have(is("a", running, 0)), health{}, want{}},
	} {
		t.Run(name, func(t *testing.T) {
			plan := MakePlan(c.pod, c.status, c.health, nil)
			got := want{create: plan.CreateSandbox, killPod: plan.KillPod, init: plan.StartInit, start: plan.Start}
			for _, k := range plan.Kill {
				got.kill = append(got.kill, k.Container.Name)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("plan = %+v, want %+v", got, c.want)
			}
		})
	}
}

// Those whose end asks for a new start of all go last, regular containers before init containers.
func TestRemovalOrder(t *testing.T) {
	p := with(pod(v1.RestartPolicyNever, "a", "b"), v1.Container{Name: "i"})
	if MayRestartAll(p) {
		t.Error("a pod without rules may restart all of its containers")
	}
	rules := []v1.ContainerRestartRule{
		{Action: v1.ContainerRestartRuleActionRestart, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{41}}},
		{Action: v1.ContainerRestartRuleActionRestartAllContainers, ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpNotIn, Values: []int32{0}}},
	}
	p.Spec.Containers[1].RestartPolicyRules = rules
	for code, want := range map[int32]bool{0: false, 41: false, 42: true} { // the first rule that matches counts
		status := have(is("b", exited, code), is("a", running, 0), is("i", exited, 0))
		if got := RestartsAll(p, status); got != want || !MayRestartAll(p) || Removed(p, status) {
			t.Errorf("an exit code of %d restarts all: %t, want %t", code, got, want)
		}
	}
	var order []string
	for _, c := range removalOrder(p, have(is("i", exited, 0), is("b", exited, 42), is("b", exited, 0), is("a", running, 0))) {
		order = append(order, c.Name)
	}
	if want := []string{"b", "a", "i", "b"}; !reflect.DeepEqual(order, want) {
		t.Errorf("removed in the order %v, want %v", order, want)
	}
}

// A probe's own grace period counts for its failure, but never against a deletion.
func TestGracePeriods(t *testing.T) {
	own, whole := int64(3), int64(30)
	p := pod(v1.RestartPolicyAlways, "a")
	p.Spec.TerminationGracePeriodSeconds = &whole
	p.Spec.Containers[0].LivenessProbe.TerminationGracePeriodSeconds = &own
	k := Kill{Spec: &p.Spec.Containers[0], Why: WhyLiveness}
	if got := k.grace(p); got != own {
		t.Errorf("after a failed probe: %d s, want %d", got, own)
	}
	k.Why = WhyOther
	if got := k.grace(p); got != whole {
		t.Errorf("otherwise: %d s, want %d", got, whole)
	}
	deletion := int64(1)
	p.DeletionGracePeriodSeconds, k.Why = &deletion, WhyLiveness
	if got := k.grace(p); got != deletion {
		t.Errorf("while being deleted: %d s, want %d", got, deletion)
	}
}

// The newest dead instance of a container is kept, younger than the policy's age all of them.
func TestDeadContainers(t *testing.T) {
	now := time.Unix(1000, 0)
	made := func(id, uid string, ago time.Duration, state runtimeapi.ContainerState) *runtimeapi.Container {
		return &runtimeapi.Container{Id: id, State: state, CreatedAt: now.Add(-ago).UnixNano(), Labels: containerLabels(&v1.Pod{}, &v1.Container{Name: "a"})}
	}
	all := []*runtimeapi.Container{
		made("old", "u", time.Hour, exited), made("older", "u", 2*time.Hour, exited), made("now", "u", time.Minute, running), made("young", "u", time.Second, exited),
	}
	remove := deadContainers(all, Policy{PerContainer: 1, MinAge: 10 * time.Second}, func(types.UID) bool { return false }, now)
	if len(remove) != 1 || remove[0].Id != "older" {
		t.Errorf("remove = %v, want only older", remove)
	}
}

// Which of two is the newer one their numbers say, whatever the clock was then.
func TestNewestFirst(t *testing.T) {
	keep := func(types.UID) bool { return false }
	first := &runtimeapi.Container{Id: "first", State: exited, CreatedAt: 2, Metadata: &runtimeapi.ContainerMetadata{}, Labels: containerLabels(&v1.Pod{}, &v1.Container{Name: "a"})}
	second := &runtimeapi.Container{Id: "second", State: exited, CreatedAt: 1, Metadata: &runtimeapi.ContainerMetadata{Attempt: 1}, Labels: first.Labels}
	if remove := deadContainers([]*runtimeapi.Container{first, second}, Policy{PerContainer: 1}, keep, time.Now()); len(remove) != 1 || remove[0] != first {
		t.Errorf("removed containers: %v, want the first", remove)
	}
	was := &runtimeapi.PodSandbox{Id: "was", State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY, CreatedAt: 2, Metadata: &runtimeapi.PodSandboxMetadata{}, Labels: first.Labels}
	is := &runtimeapi.PodSandbox{Id: "is", State: was.State, CreatedAt: 1, Metadata: &runtimeapi.PodSandboxMetadata{Attempt: 1}, Labels: first.Labels}
	if remove := deadSandboxes([]*runtimeapi.PodSandbox{was, is}, nil, keep); len(remove) != 1 || remove[0] != was {
		t.Errorf("removed sandboxes: %v, want the one that was", remove)
	}
}
