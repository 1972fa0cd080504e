// SPDX-License-Identifier: Apache-2.0

// Package claimresize writes down, in the status of a PersistentVolumeClaim, how far the growth of its volume is:
// what controllers and kubelets say about it in turn.
// Reference: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
package claimresize

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditions are those that belong to a resize.
var conditions = []corev1.PersistentVolumeClaimConditionType{
	corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
	corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError,
}

// Begun notes that the volume is being grown to size by a controller.
func Begun(s *corev1.PersistentVolumeClaimStatus, size resource.Quantity) {
	if s.AllocatedResources == nil {
		s.AllocatedResources = corev1.ResourceList{}
	}
	s.AllocatedResources[corev1.ResourceStorage] = size
	SetState(s, corev1.PersistentVolumeClaimControllerResizeInProgress)
	drop(s, corev1.PersistentVolumeClaimResizing)
	add(s, corev1.PersistentVolumeClaimResizing, "")
}

// SetState notes who has the next step.
func SetState(s *corev1.PersistentVolumeClaimStatus, state corev1.ClaimResourceStatus) {
	if s.AllocatedResourceStatuses == nil {
		s.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{}
	}
	s.AllocatedResourceStatuses[corev1.ResourceStorage] = state
}

// Failed notes an error, of the type that says whose it is. What is known of the resize stays.
func Failed(s *corev1.PersistentVolumeClaimStatus, kind corev1.PersistentVolumeClaimConditionType, message string) {
	add(s, kind, message)
}

// Finished notes that the claim has size now.
func Finished(s *corev1.PersistentVolumeClaimStatus, size resource.Quantity) {
	if s.Capacity == nil {
		s.Capacity = corev1.ResourceList{}
	}
	s.Capacity[corev1.ResourceStorage] = size
	if delete(s.AllocatedResourceStatuses, corev1.ResourceStorage); len(s.AllocatedResourceStatuses) == 0 {
		s.AllocatedResourceStatuses = nil
	}
	drop(s)
}

// drop removes the conditions of a resize but those of the types to keep.
func drop(s *corev1.PersistentVolumeClaimStatus, keep ...corev1.PersistentVolumeClaimConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return slices.Contains(conditions, c.Type) && !slices.Contains(keep, c.Type)
	})
}

func add(s *corev1.PersistentVolumeClaimStatus, kind corev1.PersistentVolumeClaimConditionType, message string) {
	now := corev1.PersistentVolumeClaimCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), Message: message}
	i := slices.IndexFunc(s.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool { return c.Type == kind })
	switch {
	case i < 0:
		s.Conditions = append(s.Conditions, now)
	case s.Conditions[i].Status != now.Status:
		s.Conditions[i] = now
	}
}
