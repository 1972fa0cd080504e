// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// minGracePeriod is what even a forced deletion leaves a container, in seconds.
const minGracePeriod = 2

// forcedKill is added to a grace period before the call to the runtime itself is given up.
const forcedKill = 2 * time.Minute

// gracePeriod is the time that the pod's containers have to end, in seconds.
func gracePeriod(pod *v1.Pod) int64 {
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return *pod.DeletionGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return minGracePeriod
}

// grace is that of the pod, unless the failed probe has one of its own.
func (k Kill) grace(pod *v1.Pod) int64 {
	if pod.DeletionGracePeriodSeconds != nil {
		return *pod.DeletionGracePeriodSeconds
	}
	for why, probe := range map[Why]*v1.Probe{WhyLiveness: k.Spec.LivenessProbe, WhyStartup: k.Spec.StartupProbe} {
		if why == k.Why && probe != nil && probe.TerminationGracePeriodSeconds != nil {
			return *probe.TerminationGracePeriodSeconds
		}
	}
	return gracePeriod(pod)
}

// KillPod ends all containers of a pod at the same time, sidecars after the regular ones and in reverse order, and then
// stops its sandboxes. A nil pod means that only the runtime knows it; a nil grace, that the pod says it.
func (r *Runtime) KillPod(ctx context.Context, pod *v1.Pod, status *Status, grace *int64) error {
	running := status.RunningContainers()
	turn := newTurns(pod, running)
	errs := make([]error, len(running))
	var wg sync.WaitGroup
	for i, c := range running {
		wg.Go(func() { errs[i] = r.killOf(ctx, pod, c, grace, turn) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, s := range status.Sandboxes {
		_, err := r.cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.GetId()})
		if err != nil && !isNotFound(err) {
			errs = append(errs, fmt.Errorf("stop sandbox %s: %w", s.GetId(), err))
		}
	}
	return errors.Join(errs...)
}

func (r *Runtime) killOf(ctx context.Context, pod *v1.Pod, c *Container, grace *int64, turn *turns) error {
	owner, spec := pod, (*v1.Container)(nil)
	if pod != nil {
		spec = Spec(pod, c.Name)
	}
	if spec == nil {
		owner, spec = specFromAnnotations(c)
	}
	seconds := gracePeriod(owner)
	if grace != nil {
		seconds = *grace
	}
	return r.kill(ctx, owner, spec, c, "", seconds, turn)
}

// kill runs the preStop hook, waits for the container's turn, and stops it; all of that within its grace period.
func (r *Runtime) kill(ctx context.Context, pod *v1.Pod, spec *v1.Container, c *Container, message string, grace int64, turn *turns) error {
	if message == "" {
		message = "Stopping container " + spec.Name
	}
	r.containerEvent(pod, spec, v1.EventTypeNormal, "Killing", message)
	if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && grace > 0 {
		grace -= r.preStop(ctx, pod, spec, c.ID, grace)
	}
	if turn != nil && grace > 0 {
		grace -= turn.wait(ctx, c.Name, grace)
	}
	if ctx.Err() != nil {
		return ctx.Err() // a shorter grace period came: the next call has it
	}
	grace = max(grace, minGracePeriod)
	stopCtx, cancel := context.WithTimeout(ctx, time.Duration(grace)*time.Second+forcedKill)
	defer cancel()
	_, err := r.cri.StopContainer(stopCtx, &runtimeapi.StopContainerRequest{ContainerId: c.ID, Timeout: grace})
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("stop container %s (%s): %w", c.Name, c.ID, err)
	}
	if turn != nil {
		turn.done(c.Name)
	}
	return nil
}

// preStop runs the hook for at most the grace period and returns the seconds that it took.
func (r *Runtime) preStop(ctx context.Context, pod *v1.Pod, spec *v1.Container, id string, grace int64) int64 {
	began := time.Now()
	hookCtx, cancel := context.WithTimeout(ctx, time.Duration(grace)*time.Second)
	defer cancel()
	err := r.runHook(hookCtx, pod, spec, id, pod.Status.PodIP, spec.Lifecycle.PreStop)
	if err != nil && hookCtx.Err() == nil {
		klog.FromContext(ctx).Error(err, "PreStop hook failed", "container", spec.Name)
		r.containerEvent(pod, spec, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
	return int64(time.Since(began).Seconds())
}

// turns makes sidecars wait until the containers that may need them have ended.
type turns struct {
	ended map[string]chan struct{} // closed when the container of that name is gone
	after map[string][]string      // what has to end before

	mu sync.Mutex // guards the closing of ended
}

// newTurns returns nil for a pod without sidecars: all its containers end at once.
func newTurns(pod *v1.Pod, running []*Container) *turns {
	if pod == nil {
		return nil
	}
	t := &turns{ended: map[string]chan struct{}{}, after: map[string][]string{}}
	for _, c := range running {
		t.ended[c.Name] = make(chan struct{})
	}
	var before []string
	for i := range pod.Spec.Containers {
		before = append(before, pod.Spec.Containers[i].Name)
	}
	sidecars := false
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		c := &pod.Spec.InitContainers[i]
		if !IsSidecar(c) {
			continue
		}
		sidecars = true
		t.after[c.Name] = append([]string(nil), before...)
		before = append(before, c.Name)
	}
	if !sidecars {
		return nil
	}
	return t
}

// wait returns the seconds it took until the container's turn came, at most the grace period.
func (t *turns) wait(ctx context.Context, name string, grace int64) int64 {
	began := time.Now()
	left := time.NewTimer(time.Duration(grace) * time.Second)
	defer left.Stop()
	for _, other := range t.after[name] {
		ended, runs := t.ended[other]
		if !runs {
			continue
		}
		select {
		case <-ended:
		case <-left.C:
			return grace
		case <-ctx.Done():
			return grace
		}
	}
	return int64(time.Since(began).Seconds())
}

func (t *turns) done(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ended, ok := t.ended[name]
	if !ok {
		return
	}
	select {
	case <-ended: // a second container of that name
	default:
		close(ended)
	}
}
