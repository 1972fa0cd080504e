// SPDX-License-Identifier: Apache-2.0

package noderesources

import (
	"context"
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/deviceclasses"
	"github.com/skiff-k8s/skiff/scheduler/plugins/dynamicresources"
	"github.com/skiff-k8s/skiff/scheduler/plugins/shape"
)

// usage is what there is and what is used of one resource on a node, without and with the pod.
type usage struct{ weight, allocatable, before, after int64 }

// scorer rates a node by the usage of some resources.
type scorer struct {
	handle    *framework.Handle
	inventory *dynamicresources.Inventory
	resources []Weighted
	nonZero   bool // count containers without requests as small ones
	rate      func([]usage) int64
}

func newScorer(h *framework.Handle, resources []Weighted, nonZero bool, rate func([]usage) int64) scorer {
	return scorer{handle: h, inventory: dynamicresources.NewInventory(h), resources: resources, nonZero: nonZero, rate: rate}
}

type scoreState struct {
	requests []int64 // of scorer.resources
	usages   []usage // used again for each node
	// devices of those resources that a DeviceClass offers, by position in scorer.resources; nil for other resources, and if there are none.
	devices []*dynamicresources.Devices
}

func (s *scorer) newState(ctx context.Context, pod *framework.PodInfo) (*scoreState, error) {
	offers, err := deviceclasses.For(ctx, s.handle, pod)
	if err != nil {
		return nil, err
	}
	state := &scoreState{requests: make([]int64, len(s.resources)), usages: make([]usage, 0, len(s.resources))}
	for i, r := range s.resources {
		state.requests[i] = s.amounts(&pod.Request, &pod.NonZero, r.Name)
		if class := offers[r.Name]; class != nil {
			if state.devices == nil {
				state.devices = make([]*dynamicresources.Devices, len(s.resources))
			}
			if state.devices[i], err = s.inventory.Count(ctx, class); err != nil {
				return nil, err
			}
		}
	}
	return state, nil
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
		before := s.amounts(&node.Requested, &node.NonZero, r.Name)
		if allocatable == 0 && state.devices != nil && state.devices[i] != nil { // no device plugin has any
			allocatable, before = state.devices[i].On(node.Node)
		}
		if allocatable == 0 || request == 0 && isScalar(r.Name) {
			continue
		}
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
	return func(h *framework.Handle) (framework.Plugin, error) {
		if resources == nil {
			resources = defaultResources()
		}
		return &balanced{newScorer(h, resources, false, balance)}, nil
	}
}

func (*balanced) Name() string { return "NodeResourcesBalancedAllocation" }

// PreScore leaves out pods without requests: all nodes would rate the same for them, whatever runs there.
func (b *balanced) PreScore(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	state, err := b.newState(ctx, pod)
	if err != nil {
		return nil, framework.AsStatus(err)
	}
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
	return pod.Request.Sign(b), onlyOfNode(pod)
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
