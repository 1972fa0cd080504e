// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

const (
	// minFeasible nodes are always looked for, however small the percentage.
	minFeasible = 100
	// minPercentage is where the adaptive percentage ends.
	minPercentage = 5
)

var errNoNodes = errors.New("no nodes available to schedule pods")

// fitError is a pod that fits no node.
type fitError struct{ *framework.Diagnosis }

func (e *fitError) Error() string { return e.Message() }

// scheduleOne tries one pod, and leaves the binding to run by itself.
func (s *Scheduler) scheduleOne(ctx context.Context, p *framework.QueuedPod) {
	profile := s.profileOf(p.Pod)
	if p.Pod.DeletionTimestamp != nil {
		s.recorder.Eventf(p.Pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling",
			"skip schedule deleting pod: %v/%v", p.Pod.Namespace, p.Pod.Name)
		s.queue.Done(p.Pod.UID)
		return
	}
	if s.cache.IsAssumed(p.Pod) {
		s.queue.Done(p.Pod.UID)
		return
	}
	klog.FromContext(ctx).V(3).Info("Attempting to schedule pod", "pod", klog.KObj(p.Pod))

	began := time.Now()
	s.cache.UpdateSnapshot(&s.snapshot)
	cycle := framework.NewCycle(profile, p.PodInfo, &s.snapshot, s.queue.Nominated)
	nodeName, err := s.pickNode(ctx, cycle)
	if err != nil {
		s.fail(ctx, p, began, err, s.postFilter(ctx, cycle, err))
		return
	}
	s.metrics.AlgorithmDuration.Observe(time.Since(began).Seconds())
	s.assumeAndBind(ctx, began, cycle, p, nodeName)
}

// postFilter lets plugins make room for a pod that fits nowhere. It returns the nomination to record, nil to leave it.
func (s *Scheduler) postFilter(ctx context.Context, cycle *framework.Cycle, err error) *framework.Nomination {
	var fit *fitError
	if !errors.As(err, &fit) {
		return &framework.Nomination{}
	}
	began := time.Now()
	nomination, status := cycle.PostFilter(ctx, fit.Diagnosis)
	s.asked("PostFilter", cycle, began, status)
	fit.PostFilterMsg = status.Message()
	if status.Code() == framework.Error {
		klog.FromContext(ctx).Error(status.Err(), "Making room for pod", "pod", klog.KObj(cycle.Pod.Pod))
	}
	return nomination
}

// pickNode returns the best node for the pod.
func (s *Scheduler) pickNode(ctx context.Context, cycle *framework.Cycle) (string, error) {
	if len(s.snapshot.Nodes) == 0 {
		return "", errNoNodes
	}
	feasible, diagnosis, err := s.findFeasible(ctx, cycle)
	switch {
	case err != nil:
		return "", err
	case len(feasible) == 0:
		return "", &fitError{diagnosis}
	case len(feasible) == 1:
		return feasible[0].Node.Name, nil
	}
	began := time.Now()
	scores, err := cycle.Score(ctx, feasible)
	s.asked("Score", cycle, began, framework.AsStatus(err))
	if err != nil {
		return "", err
	}
	return feasible[best(scores)].Node.Name, nil
}

// best returns the position of the highest score, any of them if there are several.
func best(scores []int64) int {
	at, ties := 0, 1
	for i := 1; i < len(scores); i++ {
		switch {
		case scores[i] > scores[at]:
			at, ties = i, 1
		case scores[i] == scores[at]:
			if ties++; rand.IntN(ties) == 0 {
				at = i
			}
		}
	}
	return at
}

// findFeasible returns nodes that the pod could run on, enough of them to choose from.
func (s *Scheduler) findFeasible(ctx context.Context, cycle *framework.Cycle) ([]*framework.NodeInfo, *framework.Diagnosis, error) {
	d := s.newDiagnosis()
	began := time.Now()
	names, by, plugin, status := cycle.PreFilter(ctx)
	s.asked("PreFilter", cycle, began, status)
	d.Rejectors = by
	if status != nil {
		if !status.IsRejected() {
			return nil, nil, fmt.Errorf("running PreFilter plugin %q: %s", plugin, status.Message())
		}
		d.Absent, d.PreFilterMsg = status, status.Message()
		d.AddRejection(plugin, status)
		return nil, d, nil
	}
	if node := s.snapshot.ByName[cycle.Pod.Pod.Status.NominatedNodeName]; node != nil {
		if _, status := cycle.Filter(node); status == nil {
			return append(s.feasible[:0], node), d, nil
		}
	}
	if names != nil {
		d.Absent = framework.RejectForGood(fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", sets.List(by)))
	}
	began = time.Now()
	feasible, err := s.filter(cycle, names, d)
	outcome := framework.AsStatus(err)
	if err == nil && len(feasible) == 0 {
		outcome = nowhere
	}
	s.asked("Filter", cycle, began, outcome)
	return feasible, d, err
}

var nowhere = framework.Reject()

// asked notes how long all plugins took at an extension point.
func (s *Scheduler) asked(point string, cycle *framework.Cycle, began time.Time, status *framework.Status) {
	s.metrics.Asked(point, status.Code().String(), cycle.Profile.SchedulerName, began)
}

func (s *Scheduler) newDiagnosis() *framework.Diagnosis {
	clear(s.statuses)
	if cap(s.statuses) < len(s.snapshot.Nodes) {
		s.statuses = make([]*framework.Status, len(s.snapshot.Nodes))
	}
	s.statuses = s.statuses[:len(s.snapshot.Nodes)]
	return &framework.Diagnosis{Nodes: s.snapshot.Nodes, Statuses: s.statuses}
}

// filter asks node after node, starting where the last search ended so that all get their turn, until there is
// enough choice. names, if not nil, are the only nodes to look at.
func (s *Scheduler) filter(cycle *framework.Cycle, names sets.Set[string], d *framework.Diagnosis) ([]*framework.NodeInfo, error) {
	nodes := s.snapshot.Nodes
	among := len(nodes)
	if names != nil {
		among = len(names)
	}
	want := enough(among, s.percentage[cycle.Profile.SchedulerName])
	s.feasible = s.feasible[:0]
	looked := 0
	for ; looked < len(nodes) && len(s.feasible) < want; looked++ {
		i := (s.next + looked) % len(nodes)
		if names != nil && !names.Has(nodes[i].Node.Name) {
			continue
		}
		plugin, status := cycle.Filter(nodes[i])
		switch {
		case status == nil:
			s.feasible = append(s.feasible, nodes[i])
		case !status.IsRejected():
			return nil, fmt.Errorf("running %q filter plugin: %s", plugin, status.Message())
		default:
			d.Statuses[i] = status
			d.AddRejection(plugin, status)
		}
	}
	s.next = (s.next + looked) % len(nodes)
	return s.feasible, nil
}

// enough says how many feasible nodes are enough of a choice among nodes; of 0 percent the less the more there are.
func enough(nodes int, percentage int32) int {
	if nodes < minFeasible {
		return nodes
	}
	if percentage == 0 {
		percentage = int32(max(50-nodes/125, minPercentage))
	}
	return max(nodes*int(percentage)/100, minFeasible)
}
