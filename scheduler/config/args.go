// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(raw, &kind); err == nil && kind.Kind != "" && kind.Kind != name+"Args" {
		return nil, fmt.Errorf("args are %s, must be %sArgs", kind.Kind, name)
	}
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
		return read(raw, balanced)
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
	return defaultpreemption.New(defaultpreemption.Args{
		MinCandidateNodesPercentage: orNone(percentage), MinCandidateNodesAbsolute: orNone(absolute),
	}), nil
}

// orNone is how plugins say none where zero means the default.
func orNone(n int32) int {
	if n == 0 {
		return -1
	}
	return int(n)
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
	if args.FilterTimeout < 0 || a.BindingTimeout != nil && args.BindingTimeout < time.Second {
		return nil, fmt.Errorf("filterTimeout must not be negative, bindingTimeout must be at least 1s")
	}
	return dynamicresources.New(args), nil
}

func podAffinity(a *configv1.InterPodAffinityArgs) (constructor, error) {
	weight := ptr.Deref(a.HardPodAffinityWeight, 1)
	if !isPercentage(weight) {
		return nil, fmt.Errorf("hardPodAffinityWeight must be from 0 to 100")
	}
	return interpodaffinity.New(interpodaffinity.Args{HardPodAffinityWeight: int32(orNone(weight)), IgnorePreferredTermsOfExistingPods: a.IgnorePreferredTermsOfExistingPods}), nil
}

const maxResourceWeight = 100

func resources(from []configv1.ResourceSpec) ([]noderesources.Weighted, error) {
	var list []noderesources.Weighted
	for _, r := range from {
		weight := cmp.Or(r.Weight, 1)
		if weight < 0 || weight > maxResourceWeight {
			return nil, fmt.Errorf("resource %s: weight must be from 1 to %d", r.Name, maxResourceWeight)
		}
		list = append(list, noderesources.Weighted{Name: v1.ResourceName(r.Name), Weight: weight})
	}
	return list, nil
}

func balanced(a *configv1.NodeResourcesBalancedAllocationArgs) (constructor, error) {
	list, err := resources(a.Resources)
	if err != nil {
		return nil, err
	}
	seen := sets.New[v1.ResourceName]()
	for _, r := range list {
		if r.Weight != 1 || seen.Has(r.Name) {
			return nil, fmt.Errorf("resource %s must be there once, and its weight must be 1", r.Name)
		}
		seen.Insert(r.Name)
	}
	return noderesources.NewBalanced(list), nil
}

func fit(a *configv1.NodeResourcesFitArgs, ignored sets.Set[string]) (constructor, error) {
	args := noderesources.FitArgs{IgnoredResources: ignored.Union(sets.New(a.IgnoredResources...)), IgnoredGroups: sets.New(a.IgnoredResourceGroups...)}
	for _, name := range slices.Concat(a.IgnoredResources, a.IgnoredResourceGroups) {
		if problems := content.IsLabelKey(name); len(problems) > 0 {
			return nil, fmt.Errorf("ignoredResources and ignoredResourceGroups: %q: %s", name, strings.Join(problems, ", "))
		}
	}
	for _, group := range a.IgnoredResourceGroups {
		if strings.Contains(group, "/") {
			return nil, fmt.Errorf("ignoredResourceGroups: %q must not have a slash", group)
		}
	}
	if s := a.ScoringStrategy; s != nil {
		var err error
		if args.Resources, err = resources(s.Resources); err != nil {
			return nil, fmt.Errorf("scoringStrategy: %w", err)
		}
		args.Strategy = noderesources.Strategy(s.Type)
		switch byRatio := s.RequestedToCapacityRatio; {
		case args.Strategy == "":
			return nil, fmt.Errorf("scoringStrategy: type must be LeastAllocated, MostAllocated or RequestedToCapacityRatio")
		case byRatio != nil && args.Strategy != noderesources.RequestedToCapacityRatio:
			return nil, fmt.Errorf("scoringStrategy: requestedToCapacityRatio must only be there if it is the type")
		case byRatio != nil:
			args.Shape = points(byRatio.Shape)
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
		for i := range a.DefaultConstraints {
			if err := checkSpread(a.DefaultConstraints, i); err != nil {
				return nil, fmt.Errorf("defaultConstraints[%d]: %w", i, err)
			}
		}
		return podtopologyspread.New(podtopologyspread.Args{DefaultConstraints: append([]v1.TopologySpreadConstraint{}, a.DefaultConstraints...)}), nil
	case a.DefaultingType != "" && a.DefaultingType != configv1.SystemDefaulting:
		return nil, fmt.Errorf("defaultingType must be System or List")
	case len(a.DefaultConstraints) > 0:
		return nil, fmt.Errorf("defaultConstraints need defaultingType List")
	}
	return podtopologyspread.New(podtopologyspread.Args{}), nil
}

// checkSpread says what is wrong with one of the constraints.
func checkSpread(list []v1.TopologySpreadConstraint, i int) error {
	c := &list[i]
	switch {
	case c.MaxSkew <= 0:
		return fmt.Errorf("maxSkew must be positive")
	case c.WhenUnsatisfiable != v1.DoNotSchedule && c.WhenUnsatisfiable != v1.ScheduleAnyway:
		return fmt.Errorf("whenUnsatisfiable must be DoNotSchedule or ScheduleAnyway")
	case c.LabelSelector != nil:
		return fmt.Errorf("labelSelector must not be there: it comes from the pod's Services and controller")
	}
	if problems := content.IsLabelKey(c.TopologyKey); len(problems) > 0 {
		return fmt.Errorf("topologyKey %q: %s", c.TopologyKey, strings.Join(problems, ", "))
	}
	for _, other := range list[:i] {
		if other.TopologyKey == c.TopologyKey && other.WhenUnsatisfiable == c.WhenUnsatisfiable {
			return fmt.Errorf("topologyKey %q is there twice with %s", c.TopologyKey, c.WhenUnsatisfiable)
		}
	}
	return nil
}
