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

// candidate is a node with the pods that would have to go, the most important first.
type candidate struct {
	node       string
	victims    []*v1.Pod
	violations int // of PodDisruptionBudgets
}

var (
	notHelpful = framework.RejectForGood("Preemption is not helpful for scheduling")
	noVictims  = framework.RejectForGood("No preemption victims found for incoming pod")
)

// findCandidates tries nodes that rejected the pod for something that other pods take up, from a random one on,
// until it has enough choice. If there is none, the diagnosis says why.
func (p *plugin) findCandidates(ctx context.Context, cycle *framework.Cycle, d *framework.Diagnosis) ([]*candidate, *framework.Diagnosis, error) {
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
	var found []*candidate
	harmless := false // some candidate violates no budget
	offset := rand.IntN(len(positions))
	for n := range positions {
		i := positions[(offset+n)%len(positions)]
		c, status := selectVictims(cycle.Clone(), d.Nodes[i].Clone(), budgets)
		if status != nil {
			failed.Statuses[i] = status
			continue
		}
		found = append(found, c)
		harmless = harmless || c.violations == 0
		if harmless && len(found) >= enough {
			break
		}
	}
	return found, failed, nil
}

func (p *plugin) budgets(ctx context.Context) ([]*policyv1.PodDisruptionBudget, error) {
	if err := p.handle.Need(ctx, framework.PodDisruptionBudget); err != nil {
		return nil, err
	}
	return p.handle.Informers.Policy().V1().PodDisruptionBudgets().Lister().List(labels.Everything())
}

// selectVictims takes all pods of lower priority off the node and, if the pod fits then, puts back as many as possible,
// first those protected by a budget, the most important first. It changes cycle and node, which are its own.
func selectVictims(cycle *framework.Cycle, node *framework.NodeInfo, budgets []*policyv1.PodDisruptionBudget) (*candidate, *framework.Status) {
	var potential []*framework.PodInfo
	for _, other := range node.Pods {
		if framework.Priority(other.Pod) < framework.Priority(cycle.Pod.Pod) {
			potential = append(potential, other)
		}
	}
	if len(potential) == 0 {
		return nil, noVictims
	}
	for _, victim := range potential {
		cycle.RemovePod(victim, node)
	}
	if _, status := cycle.Filter(node); status != nil {
		return nil, status
	}
	slices.SortFunc(potential, moreImportant)
	violating, rest := splitByBudget(potential, budgets)
	c := &candidate{node: node.Node.Name}
	reprieve := func(victim *framework.PodInfo) bool {
		cycle.AddPod(victim, node)
		if _, status := cycle.Filter(node); status == nil {
			return true
		}
		cycle.RemovePod(victim, node)
		c.victims = append(c.victims, victim.Pod)
		return false
	}
	for _, victim := range violating {
		if !reprieve(victim) {
			c.violations++
		}
	}
	for _, victim := range rest {
		reprieve(victim)
	}
	slices.SortStableFunc(c.victims, moreImportantPod)
	if len(c.victims) == 0 {
		return nil, noVictims // the pod fits as it is: something else has changed, and the next attempt will see it
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
func splitByBudget(pods []*framework.PodInfo, budgets []*policyv1.PodDisruptionBudget) (violating, rest []*framework.PodInfo) {
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
func violatesBudget(pod *v1.Pod, budgets []*policyv1.PodDisruptionBudget, allowed []int32) bool {
	for i, b := range budgets {
		if b.Namespace != pod.Namespace || len(pod.Labels) == 0 {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || selector.Empty() || !selector.Matches(labels.Set(pod.Labels)) {
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
			cmp.Compare(a.violations, b.violations),
			cmp.Compare(framework.Priority(a.victims[0]), framework.Priority(b.victims[0])),
			cmp.Compare(a.prioritySum(), b.prioritySum()),
			cmp.Compare(len(a.victims), len(b.victims)),
			b.earliestStart().Compare(a.earliestStart()),
		)
	})
}

// prioritySum shifts priorities so that none is negative: more victims are always worse.
func (c *candidate) prioritySum() int64 {
	sum := int64(0)
	for _, v := range c.victims {
		sum += int64(framework.Priority(v)) + math.MaxInt32 + 1
	}
	return sum
}

// earliestStart of the victims with the highest priority.
func (c *candidate) earliestStart() time.Time {
	first := startTime(c.victims[0])
	for _, v := range c.victims {
		if t := startTime(v); framework.Priority(v) == framework.Priority(c.victims[0]) && t.Before(first) {
			first = t
		}
	}
	return first
}
