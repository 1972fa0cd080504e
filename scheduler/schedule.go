// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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
	s.queue.Nominated.Changed(s.snapshot.Touch)
	cycle := framework.NewCycle(profile, p.PodInfo, &s.snapshot, s.queue.Nominated)
	cycle.Remember()
	s.measure(cycle)
	nodeName, err := s.pickNode(ctx, cycle)
	var nomination *framework.Nomination
	if err != nil {
		nomination = s.postFilter(ctx, cycle, err)
	}
	s.metrics.AlgorithmDuration.Observe(time.Since(began).Seconds())
	if err != nil {
		s.fail(ctx, p, began, err, nomination)
		return
	}
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
	s.addScores(ctx, cycle.Pod.Pod, feasible, scores)
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
			left, err := s.askExtenders(ctx, cycle, append(s.feasible[:0], node), d)
			if err != nil || len(left) > 0 {
				return left, d, err
			}
		}
	}
	if names != nil {
		d.Absent = framework.RejectForGood(fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", sets.List(by)))
	}
	began = time.Now()
	feasible, err := s.filter(cycle, names, d)
	if err == nil {
		feasible, err = s.askExtenders(ctx, cycle, feasible, d)
	}
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

// measuredAttempts is how many attempts there are to each one in which every single plugin is timed.
const measuredAttempts = 100

// measure has the metrics told what plugins do in the cycle.
func (s *Scheduler) measure(cycle *framework.Cycle) {
	cycle.Evaluated = func(plugin, point string, times int) {
		s.metrics.Evaluations.WithLabelValues(plugin, point, cycle.Profile.SchedulerName).Add(float64(times))
	}
	if s.attempts++; s.attempts%measuredAttempts == 1 {
		cycle.Asked = func(plugin, point string, status *framework.Status, took time.Duration) {
			s.metrics.PluginDuration.WithLabelValues(plugin, point, status.Code().String()).Observe(took.Seconds())
		}
	}
}

func (s *Scheduler) newDiagnosis() *framework.Diagnosis {
	clear(s.statuses)
	if cap(s.statuses) < len(s.snapshot.Nodes) {
		s.statuses = make([]*framework.Status, len(s.snapshot.Nodes))
	}
	s.statuses = s.statuses[:len(s.snapshot.Nodes)]
	return &framework.Diagnosis{Nodes: s.snapshot.Nodes, Statuses: s.statuses}
}

// filter asks about node after node, starting where the last search ended so that all get their turn, until there is
// enough choice. names, if not nil, are the only nodes to look at.
func (s *Scheduler) filter(cycle *framework.Cycle, names sets.Set[string], d *framework.Diagnosis) ([]*framework.NodeInfo, error) {
	total, at := len(s.snapshot.Nodes), func(i int) int { return (s.next + i) % len(s.snapshot.Nodes) }
	if names != nil {
		named := s.named(names)
		total, at = len(named), func(i int) int { return named[i] }
	}
	want := enough(total, s.percentage[cycle.Profile.SchedulerName])
	s.feasible = s.feasible[:0]
	looked, rejected := 0, make(framework.Rejections, 0, 8)
	for ; looked < total && len(s.feasible) < want; looked++ {
		v := s.search.ask(cycle, at, total, looked)
		switch {
		case v.status == nil:
			s.feasible = append(s.feasible, s.snapshot.Nodes[at(looked)])
		case !v.status.IsRejected():
			return nil, fmt.Errorf("running %q filter plugin: %s", v.plugin, v.status.Message())
		default:
			d.Statuses[at(looked)] = v.status
			if rejected.Add(v.plugin) == 1 || v.status.Code() == framework.Pending {
				d.AddRejection(v.plugin, v.status)
			}
		}
	}
	cycle.Filtered(looked, rejected)
	if names == nil {
		s.next = at(looked)
	}
	return s.feasible, nil
}

// search asks about nodes one by one at first. When that takes long, because few of them are feasible, it looks ahead, on all processors.
type search struct {
	verdicts [ahead]verdict
	to       int // verdicts end before the node with this number; none are there if it is not past the batch's start
}

// verdict on a node.
type verdict struct {
	plugin string
	status *framework.Status
}

const (
	alone = 512 // nodes are asked about one by one
	ahead = 1024
)

// ask returns the verdict on the node with the number looked, of a total whose positions in the snapshot at tells. It is asked for in order.
func (s *search) ask(cycle *framework.Cycle, at func(int) int, total, looked int) verdict {
	i := (looked - alone) % ahead
	if looked >= alone && i == 0 {
		s.to = looked
		if n := min(ahead, total-looked); !knows(cycle, at, looked, n) {
			s.to += n
			framework.Parallel(n, func(j int) {
				v := &s.verdicts[j]
				v.plugin, v.status = cycle.FilterAt(at(looked + j))
			})
		}
	}
	if looked >= alone && looked < s.to {
		return s.verdicts[i]
	}
	plugin, status := cycle.FilterAt(at(looked))
	return verdict{plugin, status}
}

// knows says whether there is little to find out about n nodes.
func knows(cycle *framework.Cycle, at func(int) int, from, n int) bool {
	unknown := 0
	for i := from; i < from+n && unknown <= n/16; i++ {
		if !cycle.Knows(at(i)) {
			unknown++
		}
	}
	return unknown <= n/16
}

// named returns the positions of the nodes with the names, in the order of the snapshot.
func (s *Scheduler) named(names sets.Set[string]) []int {
	positions := make([]int, 0, len(names))
	for name := range names {
		if node := s.snapshot.ByName[name]; node != nil {
			positions = append(positions, node.Position())
		}
	}
	slices.Sort(positions)
	return positions
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
