// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/defaultpreemption"
	"github.com/skiff-k8s/skiff/scheduler/plugins/dynamicresources"
	"github.com/skiff-k8s/skiff/scheduler/plugins/interpodaffinity"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeaffinity"
	"github.com/skiff-k8s/skiff/scheduler/plugins/noderesources"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podtopologyspread"
	"github.com/skiff-k8s/skiff/scheduler/plugins/shape"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumebinding"
)

// constructor makes a plugin.
type constructor = func(*framework.Handle) (framework.Plugin, error)

const fitName = "NodeResourcesFit"

// withArgs returns the constructor of a plugin with arguments. ignored are resources that are none of NodeResourcesFit's business.
func withArgs(name string, raw []byte, ignored sets.Set[string]) (constructor, error) {
	switch name {
	case "DefaultPreemption":
		return read(raw, preemption)
	case dynamicresources.Name:
		return read(raw, devices)
	case "InterPodAffinity":
		return read(raw, podAffinity)
	case "NodeAffinity":
		return read(raw, func(a *configv1.NodeAffinityArgs) (constructor, error) {
			return nodeaffinity.New(nodeaffinity.Args{Added: a.AddedAffinity}), nil
		})
	case "NodeResourcesBalancedAllocation":
		return read(raw, func(a *configv1.NodeResourcesBalancedAllocationArgs) (constructor, error) {
			return noderesources.NewBalanced(resources(a.Resources)), nil
		})
	case fitName:
		return read(raw, func(a *configv1.NodeResourcesFitArgs) (constructor, error) { return fit(a, ignored) })
	case "PodTopologySpread":
		return read(raw, topologySpread)
	case "VolumeBinding":
		return read(raw, func(a *configv1.VolumeBindingArgs) (constructor, error) {
			seconds := ptr.Deref(a.BindTimeoutSeconds, 600)
			if seconds <= 0 {
				return nil, fmt.Errorf("bindTimeoutSeconds must be positive")
			}
			return volumebinding.New(volumebinding.Args{BindTimeout: time.Duration(seconds) * time.Second, Shape: points(a.Shape)}), nil
		})
	}
	return nil, fmt.Errorf("the plugin takes no arguments")
}

func read[T any](raw []byte, build func(*T) (constructor, error)) (constructor, error) {
	var args T
	if err := yaml.UnmarshalStrict(raw, &args); err != nil {
		return nil, err
	}
	return build(&args)
}

func preemption(a *configv1.DefaultPreemptionArgs) (constructor, error) {
	percentage, absolute := ptr.Deref(a.MinCandidateNodesPercentage, 10), ptr.Deref(a.MinCandidateNodesAbsolute, 100)
	if !isPercentage(percentage) || absolute < 0 || percentage == 0 && absolute == 0 {
		return nil, fmt.Errorf("minCandidateNodesPercentage must be from 0 to 100, minCandidateNodesAbsolute at least 0, and not both 0")
	}
	return defaultpreemption.New(defaultpreemption.Args{MinCandidateNodesPercentage: int(percentage), MinCandidateNodesAbsolute: int(absolute)}), nil
}

// noTimeout is what 0 stands for in a configuration.
const noTimeout = 24 * time.Hour

func devices(a *configv1.DynamicResourcesArgs) (constructor, error) {
	args := dynamicresources.Args{}
	if a.FilterTimeout != nil {
		args.FilterTimeout = cmp.Or(a.FilterTimeout.Duration, noTimeout)
	}
	if a.BindingTimeout != nil {
		args.BindingTimeout = a.BindingTimeout.Duration
	}
	if args.FilterTimeout < 0 || args.BindingTimeout < 0 {
		return nil, fmt.Errorf("filterTimeout and bindingTimeout must not be negative")
	}
	return dynamicresources.New(args), nil
}

func podAffinity(a *configv1.InterPodAffinityArgs) (constructor, error) {
	weight := ptr.Deref(a.HardPodAffinityWeight, 1)
	if !isPercentage(weight) {
		return nil, fmt.Errorf("hardPodAffinityWeight must be from 0 to 100")
	}
	if weight == 0 {
		weight = -1 // which is how the plugin says none
	}
	return interpodaffinity.New(interpodaffinity.Args{HardPodAffinityWeight: weight, IgnorePreferredTermsOfExistingPods: a.IgnorePreferredTermsOfExistingPods}), nil
}

func resources(from []configv1.ResourceSpec) []noderesources.Weighted {
	var list []noderesources.Weighted
	for _, r := range from {
		list = append(list, noderesources.Weighted{Name: v1.ResourceName(r.Name), Weight: max(r.Weight, 1)})
	}
	return list
}

func fit(a *configv1.NodeResourcesFitArgs, ignored sets.Set[string]) (constructor, error) {
	args := noderesources.FitArgs{IgnoredResources: ignored.Union(sets.New(a.IgnoredResources...)), IgnoredGroups: sets.New(a.IgnoredResourceGroups...)}
	if s := a.ScoringStrategy; s != nil {
		args.Strategy, args.Resources = noderesources.Strategy(s.Type), resources(s.Resources)
		if s.RequestedToCapacityRatio != nil {
			args.Shape = points(s.RequestedToCapacityRatio.Shape)
		}
	}
	return noderesources.NewFit(args), nil
}

func points(from []configv1.UtilizationShapePoint) shape.Shape {
	var s shape.Shape
	for _, p := range from {
		s = append(s, shape.Point{Utilization: int64(p.Utilization), Score: int64(p.Score)})
	}
	return s
}

func topologySpread(a *configv1.PodTopologySpreadArgs) (constructor, error) {
	switch {
	case a.DefaultingType == configv1.ListDefaulting:
		list := a.DefaultConstraints
		if list == nil {
			list = []v1.TopologySpreadConstraint{}
		}
		return podtopologyspread.New(podtopologyspread.Args{DefaultConstraints: list}), nil
	case a.DefaultingType != "" && a.DefaultingType != configv1.SystemDefaulting:
		return nil, fmt.Errorf("defaultingType must be System or List")
	case len(a.DefaultConstraints) > 0:
		return nil, fmt.Errorf("defaultConstraints need defaultingType List")
	}
	return podtopologyspread.New(podtopologyspread.Args{}), nil
}
