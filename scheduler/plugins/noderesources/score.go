// SPDX-License-Identifier: Apache-2.0

package noderesources

import (
	"context"
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/shape"
)

// usage is what there is and what is used of one resource on a node, without and with the pod.
type usage struct{ weight, allocatable, before, after int64 }

// scorer rates a node by the usage of some resources.
type scorer struct {
	resources []Weighted
	nonZero   bool // count containers without requests as small ones
	rate      func([]usage) int64
}

type scoreState struct {
	requests []int64 // of scorer.resources
	usages   []usage // used again for each node
}

func (s *scorer) newState(pod *framework.PodInfo) *scoreState {
	state := &scoreState{requests: make([]int64, len(s.resources)), usages: make([]usage, 0, len(s.resources))}
	for i, r := range s.resources {
		state.requests[i] = s.amounts(&pod.Request, &pod.NonZero, r.Name)
	}
	return state
}

// amounts picks the sum that counts.
func (s *scorer) amounts(requested, nonZero *framework.Resource, name v1.ResourceName) int64 {
	if s.nonZero && (name == v1.ResourceCPU || name == v1.ResourceMemory) {
		return nonZero.Get(name)
	}
	return requested.Get(name)
}

// score leaves out resources that the node does not have, and extended ones that the pod does not want.
func (s *scorer) score(state *scoreState, node *framework.NodeInfo) int64 {
	usages := state.usages[:0]
	for i, r := range s.resources {
		request, allocatable := state.requests[i], node.Allocatable.Get(r.Name)
		if allocatable == 0 || request == 0 && isScalar(r.Name) {
			continue
		}
		before := s.amounts(&node.Requested, &node.NonZero, r.Name)
		usages = append(usages, usage{r.Weight, allocatable, before, before + request})
	}
	return s.rate(usages)
}

func isScalar(name v1.ResourceName) bool {
	return strings.Contains(string(name), "/") || strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

func weightedMean(usages []usage, score func(u *usage) int64) int64 {
	var sum, weights int64
	for i := range usages {
		sum += score(&usages[i]) * usages[i].weight
		weights += usages[i].weight
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// least prefers nodes with much left.
func least(usages []usage) int64 {
	return weightedMean(usages, func(u *usage) int64 {
		return max(0, u.allocatable-u.after) * framework.MaxScore / u.allocatable
	})
}

// most prefers nodes with little left.
func most(usages []usage) int64 {
	return weightedMean(usages, func(u *usage) int64 {
		return min(u.after, u.allocatable) * framework.MaxScore / u.allocatable
	})
}

// byShape rates utilization by a line through points. Resources that rate 0 do not count.
func byShape(s shape.Shape) func([]usage) int64 {
	return func(usages []usage) int64 {
		var sum, weights int64
		for _, u := range usages {
			if score := s.Of(u.after, u.allocatable); score > 0 {
				sum += score * u.weight
				weights += u.weight
			}
		}
		if weights == 0 {
			return 0
		}
		return int64(math.Round(float64(sum) / float64(weights)))
	}
}

type balanced struct{ scorer }

// NewBalanced returns a constructor of the balanced allocation plugin; nil means CPU and memory.
func NewBalanced(resources []Weighted) func(*framework.Handle) (framework.Plugin, error) {
	return func(*framework.Handle) (framework.Plugin, error) {
		if resources == nil {
			resources = defaultResources()
		}
		return &balanced{scorer{resources: resources, rate: balance}}, nil
	}
}

func (*balanced) Name() string { return "NodeResourcesBalancedAllocation" }

// PreScore leaves out pods without requests: all nodes would rate the same for them, whatever runs there.
func (b *balanced) PreScore(_ context.Context, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	state := b.newState(pod)
	for _, request := range state.requests {
		if request != 0 {
			return state, nil
		}
	}
	return nil, framework.SkipStatus
}

func (b *balanced) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	return b.score(state.(*scoreState), node)
}

// Sign implements framework.Local.
func (*balanced) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	return pod.Request.Sign(b), true
}

// balance rates how much more even the use of resources becomes: 75 if it stays as even as it is.
func balance(usages []usage) int64 {
	const half = framework.MaxScore / 2
	with := evenness(usages, func(u *usage) int64 { return u.after })
	without := evenness(usages, func(u *usage) int64 { return u.before })
	return half + (half+with-without)/2
}

// evenness is 100 less the standard deviation, in percent, of the used fractions.
func evenness(usages []usage, used func(*usage) int64) int64 {
	deviation := 0.0
	switch len(usages) {
	case 0, 1:
	case 2: // the usual case, without rounding errors
		deviation = math.Abs(fraction(&usages[0], used)-fraction(&usages[1], used)) / 2
	default:
		deviation = standardDeviation(usages, used)
	}
	return int64((1 - deviation) * float64(framework.MaxScore))
}

func standardDeviation(usages []usage, used func(*usage) int64) float64 {
	var sum, squares float64
	for i := range usages {
		sum += fraction(&usages[i], used)
	}
	mean := sum / float64(len(usages))
	for i := range usages {
		d := fraction(&usages[i], used) - mean
		squares += d * d
	}
	return math.Sqrt(squares / float64(len(usages)))
}

func fraction(u *usage, used func(*usage) int64) float64 {
	return min(1, float64(used(u))/float64(u.allocatable))
}
