// SPDX-License-Identifier: Apache-2.0

// Package nodeports keeps pods off nodes whose ports they need are taken.
package nodeports

import (
	"context"
	"encoding/binary"

	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct{}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "NodePorts" }

var taken = framework.Reject("node(s) didn't have free ports for the requested pod ports")

func (plugin) PreFilter(_ context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	if len(pod.Ports) == 0 {
		return nil, nil, framework.SkipStatus
	}
	return nil, nil, nil
}

func (plugin) Filter(_ framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	for i := range pod.Ports {
		if node.UsedPorts.Conflicts(&pod.Ports[i]) {
			return taken
		}
	}
	return nil
}

// Sign implements framework.Local.
func (plugin) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	b = binary.AppendUvarint(b, uint64(len(pod.Ports)))
	for i := range pod.Ports {
		b = framework.SignMessage(b, &pod.Ports[i])
	}
	return b, true
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.AssignedPod, Action: framework.Delete, Helps: freesPort},
		{Kind: framework.Node, Action: framework.Add},
	}
}

// freesPort says whether the pod that went held a port that this one wants.
func freesPort(pod *framework.PodInfo, event *framework.Event) bool {
	var gone framework.NodeInfo
	gone.AddPod(framework.NewPodInfo(event.OldPod()))
	for i := range pod.Ports {
		if gone.UsedPorts.Conflicts(&pod.Ports[i]) {
			return true
		}
	}
	return false
}
