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
	New    func(*framework.Handle) (framework.Plugin, error)
	Weight int64 // of its scores; 0 means 1
}

// Default lists the plugins that schedule pods when nothing else is configured, with their weights, in the order
// in which they are asked.
func Default() []Entry {
	return []Entry{
		{New: schedulinggates.New},
		{New: prioritysort.New},
		{New: nodename.New},
		{New: nodeunschedulable.New},
		{New: tainttoleration.New, Weight: 3},
		{New: nodeaffinity.New, Weight: 2},
		{New: nodeports.New},
		{New: noderesources.NewFit(noderesources.FitArgs{}), Weight: 1},
		{New: volumerestrictions.New},
		{New: nodevolumelimits.New},
		{New: volumebinding.New},
		{New: volumezone.New},
		{New: podtopologyspread.New(podtopologyspread.Args{}), Weight: 2},
		{New: interpodaffinity.New(interpodaffinity.Args{}), Weight: 2},
		{New: dynamicresources.New, Weight: 2},
		{New: defaultpreemption.New(defaultpreemption.Args{})},
		{New: noderesources.NewBalanced(nil), Weight: 1},
		{New: imagelocality.New, Weight: 1},
		{New: defaultbinder.New},
	}
}
