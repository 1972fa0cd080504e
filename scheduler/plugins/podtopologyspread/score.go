// SPDX-License-Identifier: Apache-2.0

package podtopologyspread

import (
	"context"
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// scoreState has, for each soft constraint, the number of matching pods in each domain, or on each node if these are the domains.
type scoreState struct {
	constraints []constraint
	tallies     []*framework.Tally   // nil where nodes are the domains
	perNode     []*framework.PerNode // nil where they are not
	weights     []float64            // more domains weigh more, so that small topologies do not drown
	requireAll  bool                 // nodes that lack a label do not take part
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
		tallies:     make([]*framework.Tally, len(constraints)),
		perNode:     make([]*framework.PerNode, len(constraints)),
		weights:     make([]float64, len(constraints)),
		requireAll:  len(pod.Pod.Spec.TopologySpreadConstraints) > 0 || !p.lenient,
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	among := among{pod.Pod, &required, constraints, s.requireAll}
	for i := range constraints {
		if c := &constraints[i]; c.key == v1.LabelHostname {
			s.perNode[i] = among.perNode(view, c)
		} else {
			s.tallies[i] = among.tally(view, c)
		}
		s.weights[i] = math.Log(float64(s.domains(i, feasible) + 2))
	}
	return s, nil
}

// domains counts those of a constraint that have a feasible node.
func (s *scoreState) domains(i int, feasible []*framework.NodeInfo) int {
	key, nodes := s.constraints[i].key, 0
	seen := make(map[string]struct{})
	for _, node := range feasible {
		switch {
		case s.ignores(node):
		case key == v1.LabelHostname:
			nodes++
		default:
			seen[node.Node.Labels[key]] = struct{}{}
		}
	}
	return max(nodes, len(seen))
}

func (s *scoreState) ignores(node *framework.NodeInfo) bool {
	return s.requireAll && !hasKeys(node.Node, s.constraints)
}

// Score is the weighted number of matching pods around: the less the better.
func (p *plugin) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	s := state.(*scoreState)
	if s.ignores(node) {
		return 0
	}
	score := 0.0
	for i := range s.constraints {
		c := &s.constraints[i]
		count := 0
		if perNode := s.perNode[i]; perNode != nil {
			if _, ok := node.Node.Labels[c.key]; !ok {
				continue
			}
			count = perNode.Of(node)
		} else {
			domain := s.tallies[i].Of(node)
			if domain == nil {
				continue
			}
			count = domain.Pods
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
