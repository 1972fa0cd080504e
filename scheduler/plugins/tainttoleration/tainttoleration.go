// SPDX-License-Identifier: Apache-2.0

// Package tainttoleration keeps pods off nodes with taints that they do not tolerate, and prefers nodes
// with fewer PreferNoSchedule taints that they do not tolerate.
package tainttoleration

import (
	"context"
	"encoding/binary"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct{}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "TaintToleration" }

var untolerated = framework.RejectForGood("node(s) had untolerated taint(s)")

func (plugin) Filter(_ framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if Tolerates(pod.Pod, node.Node) {
		return nil
	}
	return untolerated
}

// Tolerates says whether the pod may be scheduled in spite of the node's taints.
func Tolerates(pod *v1.Pod, node *v1.Node) bool {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != v1.TaintEffectNoSchedule && taint.Effect != v1.TaintEffectNoExecute {
			continue
		}
		if !corev1.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, taint, false) {
			return false
		}
	}
	return true
}

// Sign implements framework.Local.
func (plugin) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	b = binary.AppendUvarint(b, uint64(len(pod.Pod.Spec.Tolerations)))
	for i := range pod.Pod.Spec.Tolerations {
		b = framework.SignMessage(b, &pod.Pod.Spec.Tolerations[i])
	}
	return b, true
}

// PreScore collects the tolerations that matter to Score.
func (plugin) PreScore(_ context.Context, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) (framework.State, *framework.Status) {
	var soft []v1.Toleration
	for _, t := range pod.Pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == v1.TaintEffectPreferNoSchedule {
			soft = append(soft, t)
		}
	}
	return soft, nil
}

// Score counts the taints against the node.
func (plugin) Score(state framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	soft, _ := state.([]v1.Toleration)
	count := int64(0)
	for i := range node.Node.Spec.Taints {
		taint := &node.Node.Spec.Taints[i]
		if taint.Effect == v1.TaintEffectPreferNoSchedule && !corev1.TolerationsTolerateTaint(klog.Logger{}, soft, taint, false) {
			count++
		}
	}
	return count
}

func (plugin) Normalize(_ framework.State, _ []*framework.NodeInfo, scores []int64) {
	framework.NormalizeByMax(scores, true)
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeTaint, Helps: toleratedNow},
		{Kind: framework.TargetPod, Action: framework.UpdatePodTolerations},
	}
}

func toleratedNow(pod *framework.PodInfo, event *framework.Event) bool {
	old := event.OldNode()
	return Tolerates(pod.Pod, event.NewNode()) && (old == nil || !Tolerates(pod.Pod, old))
}
