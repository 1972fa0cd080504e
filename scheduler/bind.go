// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

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
func (s *Scheduler) bind(ctx context.Context, b *placement, wait func(context.Context) *framework.Status) {
	plugin, status := s.tryBind(ctx, b, wait)
	if !status.IsSuccess() {
		b.cycle.Unreserve(ctx, b.assumed, b.nodeName)
		s.giveUp(ctx, b, plugin, status)
		return
	}
	s.metrics.Attempted(metrics.Scheduled, b.cycle.Profile.SchedulerName, b.began)
	s.metrics.Placed(b.queued.Added, b.queued.Attempts)
	s.recorder.Eventf(b.assumed, nil, v1.EventTypeNormal, "Scheduled", "Binding",
		"Successfully assigned %v/%v to %v", b.assumed.Namespace, b.assumed.Name, b.nodeName)
	b.cycle.PostBind(ctx, b.assumed, b.nodeName)
}

func (s *Scheduler) tryBind(ctx context.Context, b *placement, wait func(context.Context) *framework.Status) (plugin string, status *framework.Status) {
	if wait != nil {
		asked := time.Now()
		status := wait(ctx)
		s.metrics.PermitWait.WithLabelValues(status.Code().String()).Observe(time.Since(asked).Seconds())
		if status != nil {
			return "", status
		}
	}
	// From here on only an error can keep the pod from being bound: events need not be remembered for it.
	s.queue.Done(b.assumed.UID)
	asked := time.Now()
	plugin, status = b.cycle.PreBind(ctx, b.assumed, b.nodeName)
	s.asked("PreBind", b.cycle, asked, status)
	if status != nil {
		return plugin, status
	}
	asked = time.Now()
	status = s.bindTo(context.WithoutCancel(ctx), b.cycle, b.assumed, b.nodeName)
	s.asked("Bind", b.cycle, asked, status)
	return "", status
}

// giveUp takes back a placement and has the pod tried again.
func (s *Scheduler) giveUp(ctx context.Context, b *placement, plugin string, status *framework.Status) {
	s.cache.Forget(b.assumed)
	// The room it was given is free again, which is news to those that waited for it; not to itself.
	s.queue.Notify(&framework.Event{Kind: framework.AssignedPod, Action: framework.Delete, Old: b.assumed})
	if !status.IsRejected() {
		s.fail(ctx, b.queued, b.began, fmt.Errorf("binding rejected: %s", status.Message()), &framework.Nomination{})
		return
	}
	d := &framework.Diagnosis{Statuses: []*framework.Status{status}, Nodes: make([]*framework.NodeInfo, 1)}
	d.AddRejection(plugin, status)
	s.fail(ctx, b.queued, b.began, &fitError{d}, &framework.Nomination{})
}
