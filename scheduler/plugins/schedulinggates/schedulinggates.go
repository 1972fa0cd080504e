// SPDX-License-Identifier: Apache-2.0

// Package schedulinggates keeps pods with scheduling gates out of the queue until the last gate is gone.
package schedulinggates

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct{}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "SchedulingGates" }

func (plugin) PreEnqueue(pod *v1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) == 0 {
		return nil
	}
	gates := make([]string, 0, len(pod.Spec.SchedulingGates))
	for _, gate := range pod.Spec.SchedulingGates {
		gates = append(gates, gate.Name)
	}
	return framework.RejectForGood(fmt.Sprintf("waiting for scheduling gates: %v", gates))
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{{Kind: framework.TargetPod, Action: framework.UpdatePodGates}}
}
