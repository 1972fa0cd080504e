// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A node without room is named with what it lacks, and one that is well is not.
func TestPressed(t *testing.T) {
	node := func(name string, pressure corev1.ConditionStatus) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, {Type: corev1.NodeDiskPressure, Status: pressure, Message: "kubelet has disk pressure"},
		}}}
	}
	if err := pressed([]corev1.Node{node("alpha", corev1.ConditionFalse)}); err != nil {
		t.Errorf("well: %v", err)
	}
	err := pressed([]corev1.Node{node("alpha", corev1.ConditionFalse), node("beta", corev1.ConditionTrue)})
	const want = "node beta: DiskPressure: kubelet has disk pressure (make room on the machine, then run again)"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
