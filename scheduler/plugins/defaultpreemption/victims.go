// SPDX-License-Identifier: Apache-2.0

package defaultpreemption

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// candidate is a node where preemption helps, and how much that hurts.
type candidate struct {
	*framework.Victims
	highest     int32 // priority of the most important victim
	prioritySum int64 // shifted so that none is negative: more victims are always worse
	started     int64 // when the earliest of the victims with the highest priority did
}

func newCandidate(v *framework.Victims) candidate {
	c := candidate{Victims: v, highest: framework.Priority(v.Pods[0]), started: started(v.Pods[0])}
	for _, pod := range v.Pods {
		priority := framework.Priority(pod)
		c.prioritySum += int64(priority) + math.MaxInt32 + 1
		if priority == c.highest {
			c.started = min(c.started, started(pod))
		}
	}
	return c
}

// outcome of a search for victims on one node. At most one of its fields is set.
type outcome struct {
	candidate
	status *framework.Status // why there are none
}

// outcomes are kept for pods of one signature, by position of the node: an outcome without fields is not known.
type outcomes []outcome

// Recount implements framework.Kept.
func (o outcomes) Recount(position int, _ *framework.NodeInfo) { o[position] = outcome{} }

var (
	notHelpful = framework.RejectForGood("Preemption is not helpful for scheduling")
	noVictims  = framework.RejectForGood("No preemption victims found for incoming pod")
)

// findCandidates tries nodes that rejected the pod for something that other pods take up, from a random one on,
// until it has enough choice. If there is none, the diagnosis says why.
func (p *plugin) findCandidates(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) ([]*candidate, *framework.Diagnosis, error) {
	positions := make([]int, 0, len(d.Nodes))
	for i := range d.Nodes {
		if d.Status(i).Code() == framework.Unschedulable {
			positions = append(positions, i)
		}
	}
	if len(positions) == 0 {
		return nil, &framework.Diagnosis{Nodes: d.Nodes, Absent: notHelpful}, nil
	}
	budgets, err := p.budgets(ctx)
	if err != nil {
		return nil, nil, err
	}
	try := trial{cycle, d.Nodes, budgets, keptOutcomes(cycle, budgets)}
	enough := min(len(positions), max(1, p.MinCandidateNodesAbsolute, len(positions)*p.MinCandidateNodesPercentage/100))
	found := make([]*candidate, 0, enough)
	type failure struct {
		position int
		status   *framework.Status
	}
	var failures []failure
	harmless := false // some candidate violates no budget
	offset := rand.IntN(len(positions))
	for from := 0; from < len(positions) && (!harmless || len(found) < enough); from += enough {
		at := func(i int) int { return positions[(offset+from+i)%len(positions)] }
		for i, r := range try.batch(min(enough, len(positions)-from), at) {
			if r.status == nil {
				found = append(found, &r.candidate)
				harmless = harmless || r.Violations == 0
			} else {
				failures = append(failures, failure{at(i), r.status})
			}
		}
	}
	if len(found) > 0 {
		return found, nil, nil
	}
	failed := &framework.Diagnosis{Nodes: d.Nodes, Absent: notHelpful, Statuses: make([]*framework.Status, len(d.Nodes))}
	for _, f := range failures {
		failed.Statuses[f.position] = f.status
	}
	return nil, failed, nil
}

// trial finds out what would happen if pods of lower priority were gone.
type trial struct {
	cycle   *framework.Cycle
	nodes   []*framework.NodeInfo
	budgets []budget
	kept    outcomes // nil if nothing is kept
}

// keptOutcomes returns what is known from earlier pods like this one: as long as a node stays as it is, and so do the budgets, they have the same victims.
func keptOutcomes(cycle *framework.Cycle, budgets []budget) outcomes {
	id, ok := cycle.Signature()
	if !ok {
		return nil
	}
	b := []byte("victims/" + id)
	for i := range budgets {
		b = framework.SignString(framework.SignString(b, string(budgets[i].UID)), budgets[i].ResourceVersion)
	}
	return cycle.Snapshot.Keep(string(b), func(nodes int) framework.Kept { return make(outcomes, nodes) }).(outcomes)
}

// batch tries n nodes.
func (t *trial) batch(n int, at func(int) int) []*outcome {
	results := make([]*outcome, n)
	var unknown []int
	for i := range results {
		if position := at(i); t.kept != nil && !t.cycle.IsOwn(position) {
			results[i] = &t.kept[position]
		} else {
			results[i] = &outcome{}
		}
		if results[i].Victims == nil && results[i].status == nil {
			unknown = append(unknown, i)
		}
	}
	framework.Parallel(len(unknown), func(i int) {
		r := selectVictims(t.cycle.Clone(), t.nodes[at(unknown[i])], t.budgets)
		if r.status.Code() == framework.Error {
			results[unknown[i]] = &r // not worth keeping
		} else {
			*results[unknown[i]] = r
		}
	})
	return results
}

// budget is a PodDisruptionBudget with its selector, which selects something.
type budget struct {
	*policyv1.PodDisruptionBudget
	selector labels.Selector
}

func (p *plugin) budgets(ctx context.Context) ([]budget, error) {
	if err := p.handle.Need(ctx, framework.PodDisruptionBudget); err != nil {
		return nil, err
	}
	all, err := p.handle.Informers.Policy().V1().PodDisruptionBudgets().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var budgets []budget
	for _, b := range all {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && !selector.Empty() {
			budgets = append(budgets, budget{b, selector})
		}
	}
	return budgets, nil
}

// selectVictims takes all pods of lower priority off the node and, if the pod fits then, puts back as many as possible,
// first those protected by a budget, the most important first. It changes cycle, which is its own.
func selectVictims(cycle *framework.Cycle, of *framework.NodeInfo, budgets []budget) outcome {
	node := of.Clone()
	var potential []*framework.PodInfo
	for _, other := range node.Pods {
		if framework.Priority(other.Pod) < framework.Priority(cycle.Pod.Pod) {
			potential = append(potential, other)
		}
	}
	if len(potential) == 0 {
		return outcome{status: noVictims}
	}
	for _, victim := range potential {
		cycle.RemovePod(victim, node)
	}
	if _, status := cycle.Filter(node); status != nil {
		return outcome{status: status}
	}
	slices.SortFunc(potential, moreImportant)
	violating, rest := splitByBudget(potential, budgets)
	victims := &framework.Victims{Node: of}
	reprieve := func(victim *framework.PodInfo) bool {
		cycle.AddPod(victim, node)
		if _, status := cycle.Filter(node); status == nil {
			return true
		}
		cycle.RemovePod(victim, node)
		victims.Pods = append(victims.Pods, victim.Pod)
		return false
	}
	for _, victim := range violating {
		if !reprieve(victim) {
			victims.Violations++
		}
	}
	for _, victim := range rest {
		reprieve(victim)
	}
	slices.SortStableFunc(victims.Pods, moreImportantPod)
	if len(victims.Pods) == 0 {
		return outcome{status: noVictims} // the pod fits as it is: something else has changed, and the next attempt will see it
	}
	return outcome{candidate: newCandidate(victims)}
}

func moreImportant(a, b *framework.PodInfo) int { return moreImportantPod(a.Pod, b.Pod) }

// moreImportantPod orders by priority, then by who started first.
func moreImportantPod(a, b *v1.Pod) int {
	if c := cmp.Compare(framework.Priority(b), framework.Priority(a)); c != 0 {
		return c
	}
	return cmp.Compare(started(a), started(b))
}

// started is when the pod did; one that has not will be the last.
func started(pod *v1.Pod) int64 {
	if pod.Status.StartTime != nil {
		return pod.Status.StartTime.UnixNano()
	}
	return math.MaxInt64
}

// splitByBudget tells apart the pods whose loss would violate a PodDisruptionBudget, taking them in order.
func splitByBudget(pods []*framework.PodInfo, budgets []budget) (violating, rest []*framework.PodInfo) {
	allowed := make([]int32, len(budgets))
	for i, b := range budgets {
		allowed[i] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		if violatesBudget(p.Pod, budgets, allowed) {
			violating = append(violating, p)
		} else {
			rest = append(rest, p)
		}
	}
	return violating, rest
}

// violatesBudget also uses up one of the disruptions allowed.
func violatesBudget(pod *v1.Pod, budgets []budget, allowed []int32) bool {
	for i, b := range budgets {
		if b.Namespace != pod.Namespace || len(pod.Labels) == 0 || !b.selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if _, counted := b.Status.DisruptedPods[pod.Name]; counted {
			continue // its loss is already allowed for
		}
		if allowed[i]--; allowed[i] < 0 {
			return true
		}
	}
	return false
}

// pickOne returns the candidate that hurts least: by violated budgets, by the most important victim's
// priority, by the sum of priorities, by their number, and by who of the most important victims started last.
func pickOne(candidates []*candidate) *candidate {
	return slices.MinFunc(candidates, func(a, b *candidate) int {
		return cmp.Or(
			cmp.Compare(a.Violations, b.Violations),
			cmp.Compare(a.highest, b.highest),
			cmp.Compare(a.prioritySum, b.prioritySum),
			cmp.Compare(len(a.Pods), len(b.Pods)),
			cmp.Compare(b.started, a.started),
		)
	})
}
