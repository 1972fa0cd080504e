// SPDX-License-Identifier: Apache-2.0

// Package shutdown gives pods the time to end when the machine is shut down.
//
// It asks systemd's logind to wait, hears from it that a shutdown begins, ends pods in groups, those of the lowest priority
// first, each group within a period of its own, and lets the shutdown go on. Nothing runs unless there is such a period. logind.go talks to
// logind; this file decides.
// Reference: https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/
package shutdown

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// What pods and clients are told.
const (
	Reason        = "NodeShutdown" // of a pod that comes too late
	Message       = "Pod was rejected as the node is shutting down."
	EndReason     = "Terminated"
	EndMessage    = "Pod was terminated in response to imminent node shutdown."
	NotReady      = "node is shutting down"
	critical      = 2_000_000_000 // the lowest priority of critical pods
	reconnectWait = time.Second
)

// Config is what the operator chose: groups in the order of their priorities. Without a period a shutdown does not wait.
type Config []Group

// Group is the pods of a priority and above, up to the next group; those below the first group are of it, too.
type Group struct {
	Priority int32
	Period   time.Duration
}

// Groups are ordinary pods and critical ones, for which a part of the period that all have together is kept.
func Groups(period, forCritical time.Duration) Config {
	return Config{{0, period - forCritical}, {critical, forCritical}}
}

// of is the index of a pod's group.
func (c Config) of(pod *v1.Pod) int {
	priority := corev1.PodPriority(pod)
	for i := len(c) - 1; i > 0; i-- {
		if priority >= c[i].Priority {
			return i
		}
	}
	return 0
}

// period is what all pods have together.
func (c Config) period() (sum time.Duration) {
	for _, g := range c {
		sum += g.Period
	}
	return sum
}

// Logind is who knows about shutdowns.
type Logind interface {
	// Inhibit makes a shutdown wait, at most so long, until release is called.
	Inhibit(ctx context.Context, most time.Duration) (release func(), err error)
	// Watch tells of a shutdown that begins (true) or is called off (false), until ctx ends or the connection is lost.
	Watch(ctx context.Context) (<-chan bool, error)
}

// Node is whose pods are ended.
type Node interface {
	Pods() []*v1.Pod
	// End ends a pod within some seconds. The channel is closed when its containers have ended.
	End(pod types.UID, grace int64) <-chan struct{}
	// Changed is called when Begun has another answer.
	Changed()
}

// Manager waits for a shutdown.
type Manager struct {
	cfg    Config
	logind Logind
	node   Node

	mu    sync.Mutex
	begun bool // guarded by mu
}

// New makes a Manager.
func New(cfg Config, logind Logind, node Node) *Manager {
	return &Manager{cfg: cfg, logind: logind, node: node}
}

// Begun says whether the machine is being shut down.
func (m *Manager) Begun() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.begun
}

// Run waits for shutdowns until ctx ends. A logind that goes away is looked for again.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.period() <= 0 {
		return nil
	}
	for ctx.Err() == nil {
		if err := m.wait(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Waiting for a shutdown of the machine; it is tried again")
		}
		select {
		case <-time.After(reconnectWait):
		case <-ctx.Done():
		}
	}
	return nil
}

// wait inhibits shutdowns and hears of them over one connection.
func (m *Manager) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := m.logind.Watch(ctx) // first, so that no shutdown begins unheard
	if err != nil {
		return fmt.Errorf("watch for shutdowns: %w", err)
	}
	release, err := m.logind.Inhibit(ctx, m.cfg.period())
	if err != nil {
		return fmt.Errorf("delay shutdowns: %w", err)
	}
	defer func() { release() }()
	for begins := range events {
		m.mu.Lock()
		m.begun = begins
		m.mu.Unlock()
		m.node.Changed()
		if begins {
			klog.FromContext(ctx).Info("The machine is being shut down; ending pods")
			m.endPods(ctx)
			release()
			release = func() {}
			continue
		}
		if release, err = m.logind.Inhibit(ctx, m.cfg.period()); err != nil { // for the next time
			release = func() {}
			return fmt.Errorf("delay shutdowns: %w", err)
		}
	}
	return fmt.Errorf("logind is gone")
}

// endPods ends the groups of pods, one after the other.
func (m *Manager) endPods(ctx context.Context) {
	for i, group := range m.cfg {
		var ended []<-chan struct{}
		for _, pod := range m.node.Pods() {
			if m.cfg.of(pod) == i {
				ended = append(ended, m.node.End(pod.UID, grace(pod, group.Period)))
			}
		}
		timer := time.NewTimer(group.Period)
		for _, e := range ended {
			select {
			case <-e:
				continue
			case <-timer.C:
				klog.FromContext(ctx).Info("Not all pods have ended in time", "priority", group.Priority)
			case <-ctx.Done():
			}
			break
		}
		timer.Stop()
	}
}

// grace is what a pod wants, or the period if that is shorter.
func grace(pod *v1.Pod, period time.Duration) int64 {
	most := int64(period.Seconds())
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		return min(*own, most)
	}
	return most
}
