// SPDX-License-Identifier: Apache-2.0

// Package nodedeclaredfeatures keeps pods off nodes that do not declare a feature which the pod makes use of, as is the case while a
// cluster has nodes of an older version.
//
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/node-declared-features/
package nodedeclaredfeatures

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/util/sets"
	versionutil "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-base/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct {
	features *nodedeclaredfeatures.Framework
	version  *versionutil.Version
}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) {
	v, err := versionutil.Parse(version.Get().String())
	if err != nil {
		return nil, fmt.Errorf("NodeDeclaredFeatures: parsing the version: %w", err)
	}
	return &plugin{nodedeclaredfeatures.DefaultFramework, v}, nil
}

func (*plugin) Name() string { return "NodeDeclaredFeatures" }

var undeclared = framework.RejectForGood("node(s) didn't match Pod's required features")

func (p *plugin) needs(pod *framework.PodInfo) (nodedeclaredfeatures.FeatureSet, error) {
	return p.features.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Pod.Spec}, p.version)
}

func (p *plugin) PreFilter(_ context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	needs, err := p.needs(pod)
	switch {
	case err != nil:
		return nil, nil, framework.AsStatus(err)
	case needs.IsEmpty():
		return nil, nil, framework.SkipStatus
	}
	return needs, nil, nil
}

func (p *plugin) Filter(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	has := p.features.TryMap(node.Node.Status.DeclaredFeatures)
	switch all, err := state.(nodedeclaredfeatures.FeatureSet).IsSubset(has); {
	case err != nil:
		return framework.AsStatus(err)
	case !all:
		return undeclared
	}
	return nil
}

func (p *plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeDeclaredFeature},
		{Kind: framework.TargetPod, Action: framework.Update, Helps: p.needsOther},
	}
}

// needsOther says whether the pod's update has changed what it needs.
func (p *plugin) needsOther(_ *framework.PodInfo, event *framework.Event) bool {
	before, err := p.needs(&framework.PodInfo{Pod: event.OldPod()})
	if err != nil {
		return true
	}
	now, err := p.needs(&framework.PodInfo{Pod: event.NewPod()})
	return err != nil || !now.Equal(before)
}
