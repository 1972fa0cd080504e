// SPDX-License-Identifier: Apache-2.0

// Package nodename keeps a pod that names its node on that node.
package nodename

import "github.com/skiff-k8s/skiff/scheduler/framework"

type plugin struct{}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "NodeName" }

var mismatch = framework.RejectForGood("node(s) didn't match the requested node name")

func (plugin) Filter(_ framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if name := pod.Pod.Spec.NodeName; name != "" && name != node.Node.Name {
		return mismatch
	}
	return nil
}

// Sign implements framework.Local.
func (plugin) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	return framework.SignString(b, pod.Pod.Spec.NodeName), true
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{{Kind: framework.Node, Action: framework.Add}}
}
