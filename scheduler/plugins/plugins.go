// SPDX-License-Identifier: Apache-2.0

// Package plugins lists the scheduler's plugins. Each has a folder of its own; podvolumes is
// what those about volumes share.
package plugins

import (
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins/defaultbinder"
	"github.com/skiff-k8s/skiff/scheduler/plugins/defaultpreemption"
	"github.com/skiff-k8s/skiff/scheduler/plugins/dynamicresources"
	"github.com/skiff-k8s/skiff/scheduler/plugins/imagelocality"
	"github.com/skiff-k8s/skiff/scheduler/plugins/interpodaffinity"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeaffinity"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodedeclaredfeatures"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodename"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeports"
	"github.com/skiff-k8s/skiff/scheduler/plugins/noderesources"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodeunschedulable"
	"github.com/skiff-k8s/skiff/scheduler/plugins/nodevolumelimits"
	"github.com/skiff-k8s/skiff/scheduler/plugins/podtopologyspread"
	"github.com/skiff-k8s/skiff/scheduler/plugins/prioritysort"
	"github.com/skiff-k8s/skiff/scheduler/plugins/schedulinggates"
	"github.com/skiff-k8s/skiff/scheduler/plugins/tainttoleration"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumebinding"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumerestrictions"
	"github.com/skiff-k8s/skiff/scheduler/plugins/volumezone"
)

// Entry is a plugin of a profile.
type Entry struct {
	Name   string // as a configuration knows it
	New    func(*framework.Handle) (framework.Plugin, error)
	Weight int64                   // of its scores; 0 means 1
	Off    []framework.Point       // where it is not asked, though it could be
	Rank   map[framework.Point]int // where it has to be asked, and how early; see framework.Weighted
}

// Default lists the plugins that schedule pods when nothing else is configured, with their weights, in the order
// in which they are asked.
func Default() []Entry {
	return []Entry{
		{Name: "SchedulingGates", New: schedulinggates.New},
		{Name: "PrioritySort", New: prioritysort.New},
		{Name: "NodeName", New: nodename.New},
		{Name: "NodeUnschedulable", New: nodeunschedulable.New},
		{Name: "TaintToleration", New: tainttoleration.New, Weight: 3},
		{Name: "NodeAffinity", New: nodeaffinity.New(nodeaffinity.Args{}), Weight: 2},
		{Name: "NodePorts", New: nodeports.New},
		{Name: "NodeResourcesFit", New: noderesources.NewFit(noderesources.FitArgs{}), Weight: 1},
		{Name: "VolumeRestrictions", New: volumerestrictions.New},
		{Name: "NodeVolumeLimits", New: nodevolumelimits.New},
		{Name: "VolumeBinding", New: volumebinding.New(volumebinding.Args{})},
		{Name: "VolumeZone", New: volumezone.New},
		{Name: "PodTopologySpread", New: podtopologyspread.New(podtopologyspread.Args{}), Weight: 2},
		{Name: "InterPodAffinity", New: interpodaffinity.New(interpodaffinity.Args{}), Weight: 2},
		{Name: "DynamicResources", New: dynamicresources.New(dynamicresources.Args{}), Weight: 2},
		{Name: "NodeDeclaredFeatures", New: nodedeclaredfeatures.New},
		{Name: "DefaultPreemption", New: defaultpreemption.New(defaultpreemption.Args{})},
		{Name: "NodeResourcesBalancedAllocation", New: noderesources.NewBalanced(nil), Weight: 1},
		{Name: "ImageLocality", New: imagelocality.New, Weight: 1},
		{Name: "DefaultBinder", New: defaultbinder.New},
	}
}
