// SPDX-License-Identifier: Apache-2.0

// Package probe asks containers how they are: startup, liveness and readiness probes by command, HTTP, TCP or gRPC.
//
// A Prober has one goroutine per probe of a running container. It starts when Sync is told of the container's ID and ends
// with that container. Results are kept by container ID, so those of an earlier instance never count for the next.
// verdict.go has the thresholds without I/O; handlers.go does the asking.
package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Type is one of the three kinds.
type Type int

// The kinds of probes.
const (
	Readiness Type = iota
	Liveness
	Startup
)

func (t Type) String() string { return [...]string{"Readiness", "Liveness", "Startup"}[t] }

// Target is a running container with probes.
type Target struct {
	Pod         *v1.Pod
	Container   *v1.Container
	ContainerID string
	PodIP       string
	StartedAt   time.Time
	// Adopted means that the container was running before this process: it counts as healthy until a probe says otherwise.
	Adopted bool
	// Started and Ready are what the API last said; they hold for an adopted container.
	Started, Ready bool
}

// Prober runs the probes of all pods of a node.
type Prober struct {
	exec    Exec
	events  record.EventRecorder
	metrics *metrics.Metrics
	changed func(types.UID)

	wg   sync.WaitGroup
	mu   sync.Mutex
	ctx  context.Context // guarded by mu: that of Start; nil before
	runs map[key]*run    // guarded by mu
}

type key struct {
	containerID string
	kind        Type
}

// run is one probe of one container.
type run struct {
	pod    types.UID
	cancel context.CancelFunc
	target Target // guarded by the Prober's mu: its pod is replaced by newer ones
	spec   *v1.Probe

	known, ok bool // guarded by the Prober's mu
	wake      chan struct{}
}

// New makes a Prober. changed is called, from any goroutine, when a result changes.
func New(exec Exec, events record.EventRecorder, counts *metrics.Metrics, changed func(types.UID)) *Prober {
	return &Prober{exec: exec, events: events, metrics: counts, changed: changed, runs: map[key]*run{}}
}

// Start lets probes run until ctx ends. It must be called before Sync.
func (p *Prober) Start(ctx context.Context) {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
}

// Wait returns when no probe runs any more.
func (p *Prober) Wait() { p.wg.Wait() }

// Sync makes exactly the probes of these running containers run for a pod.
func (p *Prober) Sync(uid types.UID, targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wanted := map[key]bool{}
	for _, target := range targets {
		for kind, spec := range specs(target.Container) {
			k := key{target.ContainerID, kind}
			wanted[k] = true
			if have := p.runs[k]; have != nil {
				have.target.Pod, have.target.PodIP = target.Pod, target.PodIP
				continue
			}
			p.startLocked(k, target, spec)
		}
	}
	for k, r := range p.runs {
		if r.pod == uid && !wanted[k] {
			r.cancel()
			delete(p.runs, k)
		}
	}
}

// StopHealth ends the liveness and startup probes of a pod that is being ended; readiness goes on.
func (p *Prober) StopHealth(uid types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, r := range p.runs {
		if r.pod == uid && k.kind != Readiness {
			r.cancel()
			r.known, r.ok = true, true
		}
	}
}

// Forget ends all probes of a pod.
func (p *Prober) Forget(uid types.UID) { p.Sync(uid, nil) }

func specs(c *v1.Container) map[Type]*v1.Probe {
	all := map[Type]*v1.Probe{Readiness: c.ReadinessProbe, Liveness: c.LivenessProbe, Startup: c.StartupProbe}
	for kind, spec := range all {
		if spec == nil {
			delete(all, kind)
		}
	}
	return all
}

func (p *Prober) startLocked(k key, target Target, spec *v1.Probe) {
	ctx, cancel := context.WithCancel(p.ctx)
	r := &run{pod: target.Pod.UID, cancel: cancel, target: target, spec: spec, wake: make(chan struct{}, 1)}
	r.known, r.ok = initial(k.kind, target)
	p.runs[k] = r
	p.wg.Go(func() {
		p.loop(ctx, k, r, &target)
		p.uncount(k.kind, &target)
	})
}

// initial is the result before the first probe.
func initial(kind Type, t Target) (known, ok bool) {
	switch kind {
	case Liveness:
		return true, true
	case Startup:
		return t.Adopted && t.Started, t.Adopted && t.Started
	}
	return true, t.Adopted && t.Ready
}

// Liveness is the result of the liveness probe of a container.
func (p *Prober) Liveness(containerID string) (ok, known bool) {
	return p.result(containerID, Liveness)
}

// Startup is the result of the startup probe of a container; unknown until it passed or failed for good.
func (p *Prober) Startup(containerID string) (ok, known bool) { return p.result(containerID, Startup) }

// Readiness is the result of the readiness probe of a container.
func (p *Prober) Readiness(containerID string) (ok, known bool) {
	return p.result(containerID, Readiness)
}

func (p *Prober) result(containerID string, kind Type) (ok, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runs[key{containerID, kind}]
	if r == nil {
		return false, false
	}
	return r.ok, r.known
}

// started says whether a container's startup probe, if it has one, has passed.
func (p *Prober) started(containerID string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runs[key{containerID, Startup}]
	return r == nil || r.known && r.ok
}

// adoptedDelay spreads the first probes of containers that were there before this process.
const adoptedDelay = time.Second

// loop probes until ctx ends. initial is the target as it was when the probe began.
func (p *Prober) loop(ctx context.Context, k key, r *run, initial *Target) {
	logger := klog.FromContext(ctx).WithValues("pod", klog.KObj(initial.Pod), "container", initial.Container.Name, "probe", k.kind)
	period := time.Duration(r.spec.PeriodSeconds) * time.Second
	if period <= 0 {
		period = 10 * time.Second
	}
	first := time.Duration(r.spec.InitialDelaySeconds) * time.Second
	first = min(first, first-time.Since(initial.StartedAt)) // the clock may have been set back since
	if initial.Adopted {
		first = max(first, rand.N(adoptedDelay))
	}
	timer := time.NewTimer(max(first, 0))
	defer timer.Stop()
	var v verdict
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
			if asked {
				continue // its period ended at the very time at which the startup probe passed
			}
		}
		timer.Reset(period)
		if k.kind != Startup && !p.started(k.containerID) {
			continue
		}
		asked = true
		ok, err := p.ask(ctx, k, r)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			logger.V(1).Info("Probe could not be made", "err", err)
			continue
		}
		decided, done := v.add(k.kind, r.spec, ok)
		if decided {
			p.set(k, r, ok)
		}
		if done {
			return // the container is replaced, or its startup is over
		}
	}
}

// set keeps a result and tells about a change.
func (p *Prober) set(k key, r *run, ok bool) {
	p.mu.Lock()
	changed := !r.known || r.ok != ok
	r.known, r.ok = true, ok
	if changed && k.kind == Startup && ok { // the others need not wait for their next period
		for other, waiting := range p.runs {
			if other.containerID == k.containerID && other.kind != Startup && waiting.spec.InitialDelaySeconds == 0 {
				select {
				case waiting.wake <- struct{}{}:
				default:
				}
			}
		}
	}
	p.mu.Unlock()
	if changed {
		p.changed(r.pod)
	}
}

// count adds a probe to the metrics.
func (p *Prober) count(kind Type, t *Target, ok bool, err error, took time.Duration) {
	result := "failed"
	switch {
	case err != nil:
		result = "unknown"
	case ok:
		result = "successful"
	}
	p.metrics.ProbeTotal.WithLabelValues(kind.String(), result, t.Container.Name, t.Pod.Name, t.Pod.Namespace, string(t.Pod.UID)).Inc()
	p.metrics.ProbeDuration.WithLabelValues(kind.String(), t.Container.Name, t.Pod.Name, t.Pod.Namespace).Observe(took.Seconds())
}

// uncount removes the series of a probe that has ended, or they would pile up.
func (p *Prober) uncount(kind Type, t *Target) {
	for _, result := range []string{"successful", "failed", "unknown"} {
		p.metrics.ProbeTotal.Delete(map[string]string{"probe_type": kind.String(), "result": result, "container": t.Container.Name, "pod": t.Pod.Name, "namespace": t.Pod.Namespace, "pod_uid": string(t.Pod.UID)})
	}
	p.metrics.ProbeDuration.Delete(map[string]string{"probe_type": kind.String(), "container": t.Container.Name, "pod": t.Pod.Name, "namespace": t.Pod.Namespace})
}

// tries is how often a probe that could not be made at all is repeated at once.
const tries = 3

// ask makes the probe; an error means that it could not be made, which counts neither way.
func (p *Prober) ask(ctx context.Context, k key, r *run) (ok bool, err error) {
	p.mu.Lock()
	target := r.target
	p.mu.Unlock()
	var answer answer
	began := time.Now()
	defer func() {
		if ctx.Err() == nil {
			p.count(k.kind, &target, ok, err, time.Since(began))
		}
	}()
	for range tries {
		answer, err = p.handle(ctx, r.spec, &target)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	event := func(reason, format string, args ...any) {
		p.events.Eventf(images.ContainerRef(target.Pod, target.Container), v1.EventTypeWarning, reason, format, args...)
	}
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		event("Unhealthy", "%s probe errored and resulted in unknown state: %s", k.kind, err)
		return false, fmt.Errorf("make %s probe of container %s: %w", k.kind, target.Container.Name, err)
	case !answer.ok:
		event("Unhealthy", "%s probe failed: %s", k.kind, answer.text)
	case answer.warning:
		event("ProbeWarning", "%s probe warning: %s", k.kind, answer.text)
	}
	return answer.ok, nil
}
