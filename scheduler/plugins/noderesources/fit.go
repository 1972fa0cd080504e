// SPDX-License-Identifier: Apache-2.0

// Package noderesources deals with what pods request and nodes have to give: Fit keeps pods off nodes
// without enough of it and prefers nodes by how much is left; Balanced prefers nodes whose resources would be used
// evenly.
package noderesources

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/deviceclasses"
	"github.com/skiff-k8s/skiff/scheduler/plugins/shape"
)

// Strategy says which nodes Fit prefers.
type Strategy string

// The strategies, by their names in a KubeSchedulerConfiguration.
const (
	LeastAllocated           Strategy = "LeastAllocated"
	MostAllocated            Strategy = "MostAllocated"
	RequestedToCapacityRatio Strategy = "RequestedToCapacityRatio"
)

// FitArgs configures Fit; the zero value is the default: LeastAllocated of CPU and memory.
type FitArgs struct {
	Strategy  Strategy
	Resources []Weighted // nil means CPU and memory, 1 each
	// Shape is for RequestedToCapacityRatio: scores at utilizations, ascending.
	Shape shape.Shape
	// IgnoredResources, and groups (the part before the slash), of extended resources that some extender looks after.
	IgnoredResources, IgnoredGroups sets.Set[string]
}

// Weighted is a resource with its weight in the score.
type Weighted struct {
	Name   v1.ResourceName
	Weight int64
}

type fit struct {
	FitArgs
	scorer

	short, shortForGood [shortages]*framework.Status // made once: there may be one for each node
}

// NewFit returns a constructor of the plugin.
func NewFit(args FitArgs) func(*framework.Handle) (framework.Plugin, error) {
	return func(h *framework.Handle) (framework.Plugin, error) {
		if args.Resources == nil {
			args.Resources = defaultResources()
		}
		rate, err := args.rate()
		if err != nil {
			return nil, err
		}
		f := &fit{FitArgs: args, scorer: newScorer(h, args.Resources, true, rate)}
		for s := range shortages {
			f.short[s], f.shortForGood[s] = rejection(s.reasons(), false), rejection(s.reasons(), true)
		}
		return f, nil
	}
}

func defaultResources() []Weighted {
	return []Weighted{{v1.ResourceCPU, 1}, {v1.ResourceMemory, 1}}
}

func (a *FitArgs) rate() (func([]usage) int64, error) {
	switch a.Strategy {
	case LeastAllocated, "":
		return least, nil
	case MostAllocated:
		return most, nil
	case RequestedToCapacityRatio:
		if err := a.Shape.Validate(); err != nil {
			return nil, fmt.Errorf("NodeResourcesFit: strategy %s: %w", a.Strategy, err)
		}
		return byShape(a.Shape), nil
	}
	return nil, fmt.Errorf("NodeResourcesFit: scoring strategy %s is not supported", a.Strategy)
}

func (*fit) Name() string { return "NodeResourcesFit" }

// PreFilter looks for DeviceClasses that offer what the pod requests.
func (f *fit) PreFilter(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	offers, err := deviceclasses.For(ctx, f.handle, pod)
	return offers, nil, framework.AsStatus(err)
}

// Filter names everything that is short. It allocates nothing, unless an extended resource is.
func (f *fit) Filter(state framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	want, has, used := &pod.Request, &node.Allocatable, &node.Requested
	var short shortage
	var more []string
	forGood := false
	lacks := func(want, has, used int64) bool {
		forGood = forGood || want > has
		return want > 0 && want > has-used
	}
	if int64(len(node.Pods))+1 > has.AllowedPods {
		short |= ofPods
	}
	if lacks(want.MilliCPU, has.MilliCPU, used.MilliCPU) {
		short |= ofCPU
	}
	if lacks(want.Memory, has.Memory, used.Memory) {
		short |= ofMemory
	}
	if lacks(want.EphemeralStorage, has.EphemeralStorage, used.EphemeralStorage) {
		short |= ofStorage
	}
	offers, _ := state.(deviceclasses.Offers)
	for name, value := range want.Scalar {
		if devices := offers[name] != nil && has.Scalar[name] == 0; devices || f.ignores(name) {
			continue
		}
		if lacks(value, has.Scalar[name], used.Scalar[name]) {
			more = append(more, "Insufficient "+string(name))
		}
	}
	switch {
	case short == 0 && more == nil:
		return nil
	case more != nil:
		return rejection(append(short.reasons(), more...), forGood)
	case forGood: // not even the empty node would do
		return f.shortForGood[short]
	}
	return f.short[short]
}

// Sign implements framework.Local.
func (*fit) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	return pod.NonZero.Sign(pod.Request.Sign(b)), onlyOfNode(pod)
}

// onlyOfNode says whether the node alone knows what it has of all that the pod requests: DeviceClasses may offer the rest.
func onlyOfNode(pod *framework.PodInfo) bool {
	for name := range pod.Request.Scalar {
		if deviceclasses.MayOffer(name) {
			return false
		}
	}
	return true
}

// shortage is a set of what every node has some of.
type shortage uint8

const (
	ofPods shortage = 1 << iota
	ofCPU
	ofMemory
	ofStorage
	shortages
)

func (s shortage) reasons() []string {
	var reasons []string
	for i, reason := range []string{"Too many pods", "Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage"} {
		if s&(1<<i) != 0 {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

func rejection(reasons []string, forGood bool) *framework.Status {
	if forGood {
		return framework.RejectForGood(reasons...)
	}
	return framework.Reject(reasons...)
}

func (f *fit) ignores(name v1.ResourceName) bool {
	if len(f.IgnoredResources)+len(f.IgnoredGroups) == 0 || !framework.IsExtendedResource(name) {
		return false
	}
	group, _, _ := strings.Cut(string(name), "/")
	return f.IgnoredResources.Has(string(name)) || f.IgnoredGroups.Has(group)
}

// PreScore looks up what the pod requests of the resources that count.
func (f *fit) PreScore(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	state, err := f.newState(ctx, pod)
	return state, framework.AsStatus(err)
}

func (f *fit) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	return f.score(state.(*scoreState), node)
}

func (f *fit) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.AssignedPod, Action: framework.Delete | framework.UpdatePodScaleDown, Helps: f.freesEnough},
		{Kind: framework.TargetPod, Action: framework.UpdatePodScaleDown},
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeAllocatable, Helps: f.nodeHelps},
		deviceclasses.Hint(),
	}
}

// freesEnough says whether a pod that went or shrank used something that this one wants.
func (f *fit) freesEnough(pod *framework.PodInfo, event *framework.Event) bool {
	old := event.OldPod()
	if old.Spec.NodeName == "" {
		return false
	}
	if event.NewPod() == nil {
		return true // at least it frees a place for a pod
	}
	freed := framework.NewPodInfo(old).Request
	now := framework.NewPodInfo(event.NewPod()).Request
	freed.Add(&now, -1)
	want := &pod.Request
	if want.MilliCPU > 0 && freed.MilliCPU > 0 || want.Memory > 0 && freed.Memory > 0 || want.EphemeralStorage > 0 && freed.EphemeralStorage > 0 {
		return true
	}
	for name, value := range want.Scalar {
		if value > 0 && freed.Scalar[name] > 0 {
			return true
		}
	}
	return false
}

// nodeHelps says whether the empty node would do, and has more than before of something that the pod wants.
func (f *fit) nodeHelps(pod *framework.PodInfo, event *framework.Event) bool {
	offers := deviceclasses.Known(f.handle, pod)
	var empty, before framework.NodeInfo
	empty.SetNode(event.NewNode())
	if f.Filter(offers, pod, &empty) != nil {
		return false
	}
	if event.OldNode() == nil {
		return true
	}
	before.SetNode(event.OldNode())
	more, want := empty.Allocatable, &pod.Request
	if more.AllowedPods > before.Allocatable.AllowedPods {
		return true
	}
	for _, r := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage} {
		if want.Get(r) > 0 && more.Get(r) > before.Allocatable.Get(r) {
			return true
		}
	}
	for r, value := range want.Scalar {
		if value > 0 && (more.Scalar[r] > before.Allocatable.Scalar[r] || more.Scalar[r] == 0 && offers[r] != nil) {
			return true
		}
	}
	return false
}
