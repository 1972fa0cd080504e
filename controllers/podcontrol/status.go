// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// PatchStatus writes what differs between the status of pod and the wanted one, without touching
// what the kubelet may have written in the meantime.
func PatchStatus(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, wanted corev1.PodStatus) error {
	before, err := json.Marshal(corev1.Pod{Status: pod.Status})
	if err != nil {
		return err
	}
	after, err := json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: wanted})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return fmt.Errorf("make a patch of the pod's status: %w", err)
	}
	_, err = client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// SetCondition sets a condition in a pod's status and tells whether that changed anything.
func SetCondition(status *corev1.PodStatus, condition corev1.PodCondition) bool {
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != condition.Type {
			continue
		}
		if old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		} else {
			condition.LastTransitionTime = metav1.Now()
		}
		condition.LastProbeTime = old.LastProbeTime
		changed := *old != condition
		*old = condition
		return changed
	}
	condition.LastTransitionTime = metav1.Now()
	status.Conditions = append(status.Conditions, condition)
	return true
}
