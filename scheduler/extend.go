// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/extender"
	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// interested returns the extenders to ask about a pod.
func (s *Scheduler) interested(pod *v1.Pod) []*extender.Extender {
	if len(s.extenders) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.extenders), func(e *extender.Extender) bool { return !e.Wants(pod) })
}

// goOn says whether an extender's error is of no matter, and logs it if so.
func goOn(ctx context.Context, e *extender.Extender, err error) bool {
	if e.Ignorable() {
		klog.FromContext(ctx).Info("Going on without an extender that failed", "extender", e, "err", err)
	}
	return e.Ignorable()
}

// askExtenders returns those of the feasible nodes that extenders leave.
func (s *Scheduler) askExtenders(ctx context.Context, cycle *framework.Cycle, feasible []*framework.NodeInfo, d *framework.Diagnosis) ([]*framework.NodeInfo, error) {
	before := len(feasible)
	for _, e := range s.interested(cycle.Pod.Pod) {
		if len(feasible) == 0 {
			break
		}
		left, rejected, err := e.Filter(ctx, cycle.Pod.Pod, feasible)
		if err != nil {
			if goOn(ctx, e, err) {
				continue
			}
			return nil, err
		}
		for name, status := range rejected {
			if node := s.snapshot.ByName[name]; node != nil {
				d.Statuses[node.Position()] = status
			}
		}
		feasible = left
	}
	if len(feasible) != before { // no hint says when extenders change their mind: every event is worth a try
		d.AddRejection(extender.Name, nil)
	}
	return feasible, nil
}

// addScores adds what extenders think of the nodes. Their errors leave it at the plugins' scores.
func (s *Scheduler) addScores(ctx context.Context, pod *v1.Pod, nodes []*framework.NodeInfo, scores []int64) {
	for _, e := range s.interested(pod) {
		more, err := e.Score(ctx, pod, nodes)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("An extender gives no scores", "extender", e, "pod", klog.KObj(pod), "err", err)
			continue
		}
		for i, node := range nodes {
			scores[i] += more[node.Node.Name]
		}
	}
}

// bindTo has an extender bind the pod, if one wants to, or the plugins.
func (s *Scheduler) bindTo(ctx context.Context, cycle *framework.Cycle, pod *v1.Pod, nodeName string) *framework.Status {
	for _, e := range s.interested(pod) {
		if !e.Binds() {
			continue
		}
		err := e.Bind(ctx, pod, nodeName)
		if err == nil || !goOn(ctx, e, err) {
			return framework.AsStatus(err)
		}
	}
	return cycle.Bind(ctx, pod, nodeName)
}

// preempt implements framework.Handle.Preempt.
func (s *Scheduler) preempt(ctx context.Context, pod *v1.Pod, choice map[string]*framework.Victims) (map[string]*framework.Victims, error) {
	for _, e := range s.interested(pod) {
		if len(choice) == 0 {
			break
		}
		left, err := e.Preempt(ctx, pod, choice)
		switch {
		case err == nil:
			choice = left
		case !goOn(ctx, e, err):
			return nil, err
		}
	}
	return choice, nil
}
