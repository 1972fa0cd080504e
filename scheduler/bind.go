// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/metrics"
)

// placement is a decision on its way to the API server.
type placement struct {
	cycle    *framework.Cycle
	queued   *framework.QueuedPod
	assumed  *v1.Pod // with spec.nodeName
	nodeName string
	began    time.Time // the attempt
}

// assumeAndBind counts the pod in on its node, so that the next pod can be looked at, and binds it in the background.
func (s *Scheduler) assumeAndBind(ctx context.Context, began time.Time, cycle *framework.Cycle, p *framework.QueuedPod, nodeName string) {
	pod := *p.Pod // shallow: only spec.nodeName differs, and nobody changes the rest
	pod.Spec.NodeName = nodeName
	info := *p.PodInfo
	info.Pod = &pod
	if err := s.cache.Assume(&info); err != nil {
		s.fail(ctx, p, began, err, &framework.Nomination{})
		return
	}
	s.queue.Nominated.Remove(&pod)
	b := &placement{cycle, p, &pod, nodeName, began}
	asked := time.Now()
	plugin, status := cycle.Reserve(ctx, &pod, nodeName)
	s.asked("Reserve", cycle, asked, status)
	if status != nil {
		s.giveUp(ctx, b, plugin, status)
		return
	}
	asked = time.Now()
	plugin, status, wait := cycle.Permit(ctx, &pod, nodeName)
	s.asked("Permit", cycle, asked, status)
	if status != nil {
		cycle.Unreserve(ctx, &pod, nodeName)
		s.giveUp(ctx, b, plugin, status)
		return
	}
	s.background.Go(func() {
		s.metrics.Goroutines.WithLabelValues("binding").Inc()
		defer s.metrics.Goroutines.WithLabelValues("binding").Dec()
		s.bind(ctx, b, wait)
	})
}

// bind tells the API server. It goes on when the scheduler is asked to stop, so that nothing stays half done.
func (s *Scheduler) bind(ctx context.Context, b *placement, wait framework.PermitWait) {
	plugin, status := s.tryBind(ctx, b, wait)
	if !status.IsSuccess() {
		b.cycle.Unreserve(ctx, b.assumed, b.nodeName)
		s.giveUp(ctx, b, plugin, status)
		return
	}
	s.metrics.Attempted(metrics.Scheduled, b.cycle.Profile.SchedulerName, b.began)
	s.metrics.Placed(b.queued.Added, b.queued.Attempts)
	if b.queued.Flushed {
		s.metrics.AfterFlush.Inc()
	}
	s.recorder.Eventf(b.assumed, nil, v1.EventTypeNormal, "Scheduled", "Binding",
		"Successfully assigned %v/%v to %v", b.assumed.Namespace, b.assumed.Name, b.nodeName)
	b.cycle.PostBind(ctx, b.assumed, b.nodeName)
}

func (s *Scheduler) tryBind(ctx context.Context, b *placement, wait framework.PermitWait) (plugin string, status *framework.Status) {
	if b.cycle.NeedsPreBind(b.nodeName) || wait != nil { // most pods are bound at once
		if plugin, status := s.prepare(ctx, b, wait); status != nil {
			return plugin, status
		}
	} else {
		s.queue.Done(b.assumed.UID)
	}
	asked := time.Now()
	status = s.bindTo(context.WithoutCancel(ctx), b.cycle, b.assumed, b.nodeName)
	s.asked("Bind", b.cycle, asked, status)
	return "", status
}

// prepare does what has to be done before the pod is bound. It may take long, so the pod is nominated to its node, for others (like those who make
// nodes) to see, and it may be taken back.
func (s *Scheduler) prepare(ctx context.Context, b *placement, wait framework.PermitWait) (plugin string, status *framework.Status) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.preparing.add(b.assumed.UID, cancel)
	s.announce(ctx, b)
	if wait != nil {
		asked := time.Now()
		plugin, status := wait(ctx)
		s.metrics.PermitWait.WithLabelValues(status.Code().String()).Observe(time.Since(asked).Seconds())
		if status != nil {
			s.preparing.end(b.assumed.UID)
			return plugin, status
		}
	}
	// From here on only an error can keep the pod from being bound: events need not be remembered for it.
	s.queue.Done(b.assumed.UID)
	asked := time.Now()
	plugin, status = b.cycle.PreBind(ctx, b.assumed, b.nodeName)
	s.asked("PreBind", b.cycle, asked, status)
	if taken := !s.preparing.end(b.assumed.UID); taken && status == nil {
		status = framework.AsStatus(context.Cause(ctx))
	}
	return plugin, status
}

// announce nominates the pod to the node that it is going to be bound to. It is of use to others only, so that binding goes on without.
func (s *Scheduler) announce(ctx context.Context, b *placement) {
	b.queued.Announced = b.nodeName
	if err := s.patchStatus(ctx, b.assumed, nil, &framework.Nomination{NodeName: b.nodeName}); err != nil {
		klog.FromContext(ctx).Error(err, "Nominating the node that the pod is going to be bound to", "pod", klog.KObj(b.assumed), "node", b.nodeName)
	}
}

// giveUp takes back a placement and has the pod tried again.
func (s *Scheduler) giveUp(ctx context.Context, b *placement, plugin string, status *framework.Status) {
	s.cache.Forget(b.assumed)
	// The room it was given is free again, which is news to those that waited for it; not to itself.
	s.queue.Notify(&framework.Event{Kind: framework.AssignedPod, Action: framework.Delete, Old: b.assumed})
	if !status.IsRejected() {
		s.fail(ctx, b.queued, b.began, errors.New(status.Message()), &framework.Nomination{})
		return
	}
	d := &framework.Diagnosis{Statuses: []*framework.Status{status}, Nodes: make([]*framework.NodeInfo, 1)}
	d.AddRejection(plugin, status)
	s.fail(ctx, b.queued, b.began, &fitError{d}, &framework.Nomination{})
}

// preparing are the pods that have their node and are not yet being bound.
type preparing struct {
	mu     sync.Mutex
	cancel map[types.UID]context.CancelCauseFunc // nil for a pod that was taken back; guarded by mu
}

func (p *preparing) add(pod types.UID, cancel context.CancelCauseFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel == nil {
		p.cancel = make(map[types.UID]context.CancelCauseFunc)
	}
	p.cancel[pod] = cancel
}

// end returns false if the pod was taken back.
func (p *preparing) end(pod types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	cancel := p.cancel[pod]
	delete(p.cancel, pod)
	return cancel != nil
}

// takeBack keeps the pod from being bound, for the reason given. It returns false if it is too late for that.
func (p *preparing) takeBack(pod types.UID, reason string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	cancel, found := p.cancel[pod]
	if cancel != nil {
		cancel(errors.New(reason))
		p.cancel[pod] = nil
	}
	return found
}
