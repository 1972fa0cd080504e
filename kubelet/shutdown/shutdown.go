// SPDX-License-Identifier: Apache-2.0

// Package shutdown gives pods the time to end when the machine is shut down.
//
// It asks systemd's logind to wait, hears from it that a shutdown begins, ends ordinary pods and then critical ones, each
// within a period of their own, and lets the shutdown go on. Nothing runs unless there is such a period. logind.go talks to
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

// Config is what the operator chose.
type Config struct {
	Period   time.Duration // that all pods have together; 0: a shutdown does not wait
	Critical time.Duration // of it, what is kept for critical pods
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
	if m.cfg.Period <= 0 {
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
	release, err := m.logind.Inhibit(ctx, m.cfg.Period)
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
		if release, err = m.logind.Inhibit(ctx, m.cfg.Period); err != nil { // for the next time
			release = func() {}
			return fmt.Errorf("delay shutdowns: %w", err)
		}
	}
	return fmt.Errorf("logind is gone")
}

// endPods ends ordinary pods, then critical ones.
func (m *Manager) endPods(ctx context.Context) {
	for _, group := range []struct {
		critical bool
		period   time.Duration
	}{{false, m.cfg.Period - m.cfg.Critical}, {true, m.cfg.Critical}} {
		var ended []<-chan struct{}
		for _, pod := range m.node.Pods() {
			if (corev1.PodPriority(pod) >= critical) == group.critical {
				ended = append(ended, m.node.End(pod.UID, grace(pod, group.period)))
			}
		}
		timer := time.NewTimer(group.period)
		for _, e := range ended {
			select {
			case <-e:
				continue
			case <-timer.C:
				klog.FromContext(ctx).Info("Not all pods have ended in time", "critical", group.critical)
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
