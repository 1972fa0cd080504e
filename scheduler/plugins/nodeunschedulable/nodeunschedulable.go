// SPDX-License-Identifier: Apache-2.0

// Package nodeunschedulable keeps pods off cordoned nodes, unless they tolerate that.
package nodeunschedulable

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

type plugin struct{}

// New makes the plugin.
func New(*framework.Handle) (framework.Plugin, error) { return plugin{}, nil }

func (plugin) Name() string { return "NodeUnschedulable" }

var (
	cordoned = framework.RejectForGood("node(s) were unschedulable")
	taint    = v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
)

func (plugin) Filter(_ framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if node.Node.Spec.Unschedulable && !tolerates(pod.Pod) {
		return cordoned
	}
	return nil
}

// Sign implements framework.Local.
func (plugin) Sign(b []byte, pod *framework.PodInfo) ([]byte, bool) {
	if tolerates(pod.Pod) {
		return append(b, 1), true
	}
	return append(b, 0), true
}

func tolerates(pod *v1.Pod) bool {
	return corev1.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false)
}

func (plugin) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeTaint, Helps: schedulableNow},
		{Kind: framework.TargetPod, Action: framework.UpdatePodTolerations, Helps: func(pod *framework.PodInfo, _ *framework.Event) bool { return tolerates(pod.Pod) }},
	}
}

func schedulableNow(_ *framework.PodInfo, event *framework.Event) bool {
	old := event.OldNode()
	return !event.NewNode().Spec.Unschedulable && (old == nil || old.Spec.Unschedulable)
}
