// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of the Progressing condition that decide something.
const (
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonAvailable = "NewReplicaSetAvailable"
	reasonPaused    = "DeploymentPaused"
)

// count writes what the ReplicaSets have into r.Status, and whether that is enough to be available.
func (r *rollout) count() {
	all := r.all()
	available := availableReplicas(all)
	updated := int32(0)
	if r.new != nil {
		updated = r.new.Status.Replicas
	}
	r.Status = appsv1.DeploymentStatus{
		ObservedGeneration:  r.Generation,
		Replicas:            sum(all, func(set *appsv1.ReplicaSet) int32 { return set.Status.Replicas }),
		UpdatedReplicas:     updated,
		ReadyReplicas:       sum(all, func(set *appsv1.ReplicaSet) int32 { return set.Status.ReadyReplicas }),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, specReplicas(all)-available),
		TerminatingReplicas: terminatingReplicas(all),
		CollisionCount:      r.Status.CollisionCount,
		Conditions:          slices.Clone(r.Status.Conditions),
	}
	if available >= minAvailable(r.Deployment) {
		r.setCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		r.setCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
}

// terminatingReplicas is not known as long as one ReplicaSet that was seen by its controller does not tell.
func terminatingReplicas(sets []*appsv1.ReplicaSet) *int32 {
	total := int32(0)
	for _, set := range sets {
		switch {
		case set.Status.TerminatingReplicas != nil:
			total += *set.Status.TerminatingReplicas
		case set.Status.ObservedGeneration != 0:
			return nil
		}
	}
	return &total
}

// progress counts, and judges the rollout: done, going on, or stuck.
func (r *rollout) progress() {
	before := r.Status
	current := condition(&before, appsv1.DeploymentProgressing)
	r.count()

	name := fmt.Sprintf("Deployment %q", r.Name)
	if r.new != nil {
		name = fmt.Sprintf("ReplicaSet %q", r.new.Name)
	}
	// A rollout that was complete and still has only new replicas: nothing to judge until the next one.
	settled := r.Status.Replicas == r.Status.UpdatedReplicas && current != nil && current.Reason == reasonAvailable
	switch {
	case !r.hasDeadline():
		r.removeCondition(appsv1.DeploymentProgressing)
	case settled:
	case complete(r.Deployment, &r.Status):
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, name+" has successfully progressed.")
	case progressed(&before, &r.Status):
		// Each sign of progress restarts the deadline, so lastUpdateTime changes though the reason may not.
		r.removeCondition(appsv1.DeploymentProgressing)
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "ReplicaSetUpdated", name+" is progressing.")
		if current != nil && current.Status == corev1.ConditionTrue {
			condition(&r.Status, appsv1.DeploymentProgressing).LastTransitionTime = current.LastTransitionTime
		}
	case r.timedOut(current):
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, name+" has timed out progressing.")
	}
	r.reportFailure()
}

// complete tells whether all desired replicas are updated and available, and no others are left.
func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	desired := *d.Spec.Replicas
	return status.UpdatedReplicas == desired && status.Replicas == desired && status.AvailableReplicas == desired &&
		status.ObservedGeneration >= d.Generation
}

// progressed tells whether there are more updated, ready or available replicas than before, or fewer old ones.
func progressed(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

func (r *rollout) hasDeadline() bool {
	return r.Spec.ProgressDeadlineSeconds != nil && *r.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// deadline is when a rollout whose last sign of life is the given condition counts as stuck.
func (r *rollout) deadline(progressing *appsv1.DeploymentCondition) time.Time {
	return progressing.LastUpdateTime.Add(time.Duration(*r.Spec.ProgressDeadlineSeconds) * time.Second)
}

func (r *rollout) timedOut(progressing *appsv1.DeploymentCondition) bool {
	switch {
	case progressing == nil || progressing.Reason == reasonAvailable:
		return false // nothing to measure from
	case progressing.Reason == reasonTimedOut:
		return true
	}
	return r.deadline(progressing).Before(r.now)
}

// progressCheck returns in how long to see whether the rollout is stuck; 0 if it need not be checked.
func (r *rollout) progressCheck() time.Duration {
	progressing := condition(&r.Status, appsv1.DeploymentProgressing)
	if r.Spec.Paused || r.DeletionTimestamp != nil || !r.hasDeadline() || progressing == nil ||
		complete(r.Deployment, &r.Status) || progressing.Reason == reasonTimedOut || progressing.Reason == reasonAvailable {
		return 0
	}
	// A second more, because times in objects are whole seconds.
	return max(0, r.deadline(progressing).Sub(r.now)) + time.Second
}

// reportFailure makes a ReplicaSet's ReplicaFailure the Deployment's; the new one's goes first.
func (r *rollout) reportFailure() {
	sets := r.old
	if r.new != nil {
		sets = append([]*appsv1.ReplicaSet{r.new}, r.old...)
	}
	for _, set := range sets {
		for _, c := range set.Status.Conditions {
			if c.Type != appsv1.ReplicaSetReplicaFailure {
				continue
			}
			r.setConditionAt(appsv1.DeploymentCondition{
				Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
				LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
			})
			return
		}
	}
	r.removeCondition(appsv1.DeploymentReplicaFailure)
}

// notePause says in the Progressing condition that the Deployment is paused, or no longer is, so that the
// deadline does not run while it is.
func (r *rollout) notePause() {
	if !r.hasDeadline() {
		return
	}
	progressing := condition(&r.Status, appsv1.DeploymentProgressing)
	if progressing != nil && progressing.Reason == reasonTimedOut {
		return
	}
	noted := progressing != nil && progressing.Reason == reasonPaused
	switch {
	case r.Spec.Paused && !noted:
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.Spec.Paused && noted:
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed")
	}
}

func condition(status *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == t {
			return &status.Conditions[i]
		}
	}
	return nil
}

func (r *rollout) setCondition(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.Time{Time: r.now}
	r.setConditionAt(appsv1.DeploymentCondition{
		Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
}

// setConditionAt replaces a condition unless it has the same status and reason already.
func (r *rollout) setConditionAt(c appsv1.DeploymentCondition) {
	if current := condition(&r.Status, c.Type); current != nil {
		if current.Status == c.Status && current.Reason == c.Reason {
			return
		}
		if current.Status == c.Status {
			c.LastTransitionTime = current.LastTransitionTime
		}
	}
	r.removeCondition(c.Type)
	r.Status.Conditions = append(r.Status.Conditions, c)
}

func (r *rollout) removeCondition(t appsv1.DeploymentConditionType) {
	r.Status.Conditions = slices.DeleteFunc(slices.Clone(r.Status.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}
