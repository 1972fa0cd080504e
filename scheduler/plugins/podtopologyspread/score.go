// SPDX-License-Identifier: Apache-2.0

package podtopologyspread

import (
	"context"
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// scoreState has, for each soft constraint, the number of matching pods in each domain that has a feasible node.
// Of nodes as domains it has none: Score counts on the spot.
type scoreState struct {
	constraints []constraint
	counts      []map[string]int
	weights     []float64 // more domains weigh more, so that small topologies do not drown
	requireAll  bool      // nodes that lack a label do not take part
}

func (p *plugin) PreScore(ctx context.Context, pod *framework.PodInfo, view *framework.Snapshot, feasible []*framework.NodeInfo) (framework.State, *framework.Status) {
	constraints, err := p.constraints(ctx, pod.Pod, v1.ScheduleAnyway)
	if err != nil {
		return nil, framework.AsStatus(err)
	}
	if len(constraints) == 0 {
		return nil, framework.SkipStatus
	}
	s := &scoreState{
		constraints: constraints,
		counts:      make([]map[string]int, len(constraints)),
		weights:     make([]float64, len(constraints)),
		requireAll:  len(pod.Pod.Spec.TopologySpreadConstraints) > 0 || !p.lenient,
	}
	s.findDomains(feasible)
	s.count(pod.Pod, view)
	return s, nil
}

func (s *scoreState) findDomains(feasible []*framework.NodeInfo) {
	for i := range s.counts {
		s.counts[i] = make(map[string]int)
	}
	taking := 0
	for _, node := range feasible {
		if s.ignores(node) {
			continue
		}
		taking++
		for i := range s.constraints {
			if key := s.constraints[i].key; key != v1.LabelHostname {
				s.counts[i][node.Node.Labels[key]] = 0
			}
		}
	}
	for i := range s.weights {
		domains := len(s.counts[i])
		if s.constraints[i].key == v1.LabelHostname {
			domains = taking
		}
		s.weights[i] = math.Log(float64(domains + 2))
	}
}

func (s *scoreState) ignores(node *framework.NodeInfo) bool {
	return s.requireAll && !hasKeys(node.Node, s.constraints)
}

func (s *scoreState) count(pod *v1.Pod, view *framework.Snapshot) {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	for _, node := range view.Nodes {
		if s.ignores(node) {
			continue
		}
		for i := range s.constraints {
			c := &s.constraints[i]
			domain := node.Node.Labels[c.key]
			if count, ok := s.counts[i][domain]; ok && c.includes(pod, &required, node.Node) {
				s.counts[i][domain] = count + countMatching(node, c.selector, pod.Namespace)
			}
		}
	}
}

// Score is the weighted number of matching pods around: the less the better.
func (p *plugin) Score(state framework.State, pod *framework.PodInfo, node *framework.NodeInfo) int64 {
	s := state.(*scoreState)
	if s.ignores(node) {
		return 0
	}
	score := 0.0
	for i := range s.constraints {
		c := &s.constraints[i]
		domain, ok := node.Node.Labels[c.key]
		if !ok {
			continue
		}
		count := s.counts[i][domain]
		if c.key == v1.LabelHostname {
			count = countMatching(node, c.selector, pod.Pod.Namespace)
		}
		score += float64(count)*s.weights[i] + float64(c.maxSkew-1)
	}
	return int64(math.Round(score))
}

// Normalize turns the scores round. Nodes that do not take part get 0.
func (p *plugin) Normalize(state framework.State, nodes []*framework.NodeInfo, scores []int64) {
	s := state.(*scoreState)
	lowest, highest := int64(math.MaxInt64), int64(0)
	for i, node := range nodes {
		if !s.ignores(node) {
			lowest, highest = min(lowest, scores[i]), max(highest, scores[i])
		}
	}
	for i, node := range nodes {
		switch {
		case s.ignores(node):
			scores[i] = 0
		case highest == 0:
			scores[i] = framework.MaxScore
		default:
			scores[i] = framework.MaxScore * (highest + lowest - scores[i]) / highest
		}
	}
}
