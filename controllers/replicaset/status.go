// SPDX-License-Identifier: Apache-2.0

package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// newStatus counts the active pods; manageErr is what kept their number from being right.
func newStatus(set *appsv1.ReplicaSet, active []*corev1.Pod, manageErr error, now time.Time) appsv1.ReplicaSetStatus {
	status := appsv1.ReplicaSetStatus{
		Replicas:           int32(len(active)),
		ObservedGeneration: set.Generation,
		Conditions:         slices.Clone(set.Status.Conditions),
	}
	ofTemplate := labels.SelectorFromValidatedSet(set.Spec.Template.Labels)
	for _, pod := range active {
		if ofTemplate.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podcontrol.Ready(pod) {
			status.ReadyReplicas++
		}
		if podcontrol.Available(pod, set.Spec.MinReadySeconds, now) {
			status.AvailableReplicas++
		}
	}

	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	failing := slices.ContainsFunc(status.Conditions, isFailure)
	switch {
	case manageErr != nil && !failing:
		reason := "FailedCreate"
		if len(active) > int(*set.Spec.Replicas) {
			reason = "FailedDelete"
		}
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type:               appsv1.ReplicaSetReplicaFailure,
			Status:             corev1.ConditionTrue,
			LastTransitionTime: metav1.Time{Time: now},
			Reason:             reason,
			Message:            manageErr.Error(),
		})
	case manageErr == nil && failing:
		status.Conditions = slices.DeleteFunc(status.Conditions, isFailure)
	}
	return status
}
