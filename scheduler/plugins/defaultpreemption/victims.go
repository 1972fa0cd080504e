// SPDX-License-Identifier: Apache-2.0

package defaultpreemption

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// candidate is a node where preemption helps.
type candidate struct{ *framework.Victims }

var (
	notHelpful = framework.RejectForGood("Preemption is not helpful for scheduling")
	noVictims  = framework.RejectForGood("No preemption victims found for incoming pod")
)

// findCandidates tries nodes that rejected the pod for something that other pods take up, from a random one on,
// until it has enough choice. If there is none, the diagnosis says why.
func (p *plugin) findCandidates(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) ([]candidate, *framework.Diagnosis, error) {
	var positions []int
	for i := range d.Nodes {
		if d.Status(i).Code() == framework.Unschedulable {
			positions = append(positions, i)
		}
	}
	failed := &framework.Diagnosis{Nodes: d.Nodes, Statuses: make([]*framework.Status, len(d.Nodes)), Absent: notHelpful}
	if len(positions) == 0 {
		return nil, failed, nil
	}
	budgets, err := p.budgets(ctx)
	if err != nil {
		return nil, nil, err
	}
	enough := min(len(positions), max(p.MinCandidateNodesAbsolute, len(positions)*p.MinCandidateNodesPercentage/100))
	var found []candidate
	harmless := false // some candidate violates no budget
	offset := rand.IntN(len(positions))
	for from := 0; from < len(positions) && (!harmless || len(found) < enough); from += enough {
		type result struct {
			candidate
			status *framework.Status
		}
		results := make([]result, min(enough, len(positions)-from))
		at := func(i int) int { return positions[(offset+from+i)%len(positions)] }
		framework.Parallel(len(results), func(i int) {
			results[i].candidate, results[i].status = selectVictims(cycle.Clone(), d.Nodes[at(i)], budgets)
		})
		for i, r := range results {
			if r.status != nil {
				failed.Statuses[at(i)] = r.status
				continue
			}
			found = append(found, r.candidate)
			harmless = harmless || r.Violations == 0
		}
	}
	return found, failed, nil
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
func selectVictims(cycle *framework.Cycle, of *framework.NodeInfo, budgets []budget) (candidate, *framework.Status) {
	node := of.Clone()
	var potential []*framework.PodInfo
	for _, other := range node.Pods {
		if framework.Priority(other.Pod) < framework.Priority(cycle.Pod.Pod) {
			potential = append(potential, other)
		}
	}
	c := candidate{&framework.Victims{Node: of}}
	if len(potential) == 0 {
		return c, noVictims
	}
	for _, victim := range potential {
		cycle.RemovePod(victim, node)
	}
	if _, status := cycle.Filter(node); status != nil {
		return c, status
	}
	slices.SortFunc(potential, moreImportant)
	violating, rest := splitByBudget(potential, budgets)
	reprieve := func(victim *framework.PodInfo) bool {
		cycle.AddPod(victim, node)
		if _, status := cycle.Filter(node); status == nil {
			return true
		}
		cycle.RemovePod(victim, node)
		c.Pods = append(c.Pods, victim.Pod)
		return false
	}
	for _, victim := range violating {
		if !reprieve(victim) {
			c.Violations++
		}
	}
	for _, victim := range rest {
		reprieve(victim)
	}
	slices.SortStableFunc(c.Pods, moreImportantPod)
	if len(c.Pods) == 0 {
		return c, noVictims // the pod fits as it is: something else has changed, and the next attempt will see it
	}
	return c, nil
}

func moreImportant(a, b *framework.PodInfo) int { return moreImportantPod(a.Pod, b.Pod) }

// moreImportantPod orders by priority, then by who started first.
func moreImportantPod(a, b *v1.Pod) int {
	if c := cmp.Compare(framework.Priority(b), framework.Priority(a)); c != 0 {
		return c
	}
	return startTime(a).Compare(startTime(b))
}

// startTime of a pod that has not started is in the future.
func startTime(pod *v1.Pod) time.Time {
	if pod.Status.StartTime != nil {
		return pod.Status.StartTime.Time
	}
	return time.Now()
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
func pickOne(candidates []candidate) candidate {
	return slices.MinFunc(candidates, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(a.Violations, b.Violations),
			cmp.Compare(framework.Priority(a.Pods[0]), framework.Priority(b.Pods[0])),
			cmp.Compare(a.prioritySum(), b.prioritySum()),
			cmp.Compare(len(a.Pods), len(b.Pods)),
			b.earliestStart().Compare(a.earliestStart()),
		)
	})
}

// prioritySum shifts priorities so that none is negative: more victims are always worse.
func (c candidate) prioritySum() int64 {
	sum := int64(0)
	for _, v := range c.Pods {
		sum += int64(framework.Priority(v)) + math.MaxInt32 + 1
	}
	return sum
}

// earliestStart of the victims with the highest priority.
func (c candidate) earliestStart() time.Time {
	first := startTime(c.Pods[0])
	for _, v := range c.Pods {
		if t := startTime(v); framework.Priority(v) == framework.Priority(c.Pods[0]) && t.Before(first) {
			first = t
		}
	}
	return first
}
