// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditionTaints are the keys of the taints that conditions stand for.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	key       string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

func condition(status *corev1.NodeStatus, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == t {
			return &status.Conditions[i]
		}
	}
	return nil
}

// readyStatus is empty for a node that never said.
func readyStatus(node *corev1.Node) corev1.ConditionStatus {
	if ready := condition(&node.Status, corev1.NodeReady); ready != nil {
		return ready.Status
	}
	return ""
}

// setUnknown sets the conditions that a silent kubelet would have written and tells whether that changed anything.
func setUnknown(status *corev1.NodeStatus, created metav1.Time, now time.Time) (changed bool) {
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := condition(status, t)
		switch {
		case c == nil:
			status.Conditions = append(status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: created, LastTransitionTime: metav1.Time{Time: now},
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status = corev1.ConditionUnknown
			c.Reason, c.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.Time{Time: now}
		default:
			continue
		}
		changed = true
	}
	return changed
}

// owned tells whether a taint is this controller's to add and remove.
func owned(t corev1.Taint) bool {
	switch t.Effect {
	case corev1.TaintEffectNoSchedule:
		if t.Key == corev1.TaintNodeUnschedulable {
			return true
		}
		for _, ct := range conditionTaints {
			if ct.key == t.Key {
				return true
			}
		}
	case corev1.TaintEffectNoExecute:
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	}
	return false
}

// withTaints returns the taints that the node should have: those of others as they are, and ours. A NoExecute taint
// that is new needs a token of the zone, for which reserve says how long to wait; 0 means that the node has one.
func withTaints(node *corev1.Node, verdict verdict, reserve func(node, zone string, qps float32) time.Duration, now time.Time) ([]corev1.Taint, time.Duration) {
	var wanted []corev1.Taint
	want := func(key string, effect corev1.TaintEffect) {
		wanted = append(wanted, corev1.Taint{Key: key, Effect: effect})
	}
	for _, ct := range conditionTaints {
		if c := condition(&node.Status, ct.condition); c != nil && c.Status == ct.status {
			want(ct.key, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		want(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	wait := time.Duration(0)
	if key := noExecuteKey(node); key != "" && !verdict.allDown {
		if !evicts(node.Spec.Taints) { // not-ready becomes unreachable, and the other way round, without waiting
			zone := zoneOf(node)
			wait = reserve(node.Name, zone, verdict.qps[zone])
		}
		if wait == 0 {
			want(key, corev1.TaintEffectNoExecute)
		}
	}

	var taints []corev1.Taint
	for _, t := range node.Spec.Taints { // keep order and timeAdded
		i := slices.IndexFunc(wanted, func(w corev1.Taint) bool { return w.MatchTaint(&t) })
		if i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
		} else if owned(t) {
			continue
		}
		taints = append(taints, t)
	}
	for _, t := range wanted {
		t.TimeAdded = &metav1.Time{Time: now}
		taints = append(taints, t)
	}
	return taints, wait
}

// evicts tells whether there is a taint of ours by which pods have to go.
func evicts(taints []corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(t corev1.Taint) bool { return owned(t) && t.Effect == corev1.TaintEffectNoExecute })
}

func noExecuteKey(node *corev1.Node) string {
	switch readyStatus(node) {
	case corev1.ConditionFalse:
		return corev1.TaintNodeNotReady
	case corev1.ConditionUnknown:
		return corev1.TaintNodeUnreachable
	}
	return ""
}

func sameTaints(a, b []corev1.Taint) bool {
	return slices.EqualFunc(a, b, func(a, b corev1.Taint) bool { return a.MatchTaint(&b) && a.Value == b.Value })
}
