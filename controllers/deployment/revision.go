// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"

	maxHistoryLength = 2000 // of the history annotation, in characters
)

// ownAnnotation tells whether an annotation belongs to one object and is not copied between Deployment and ReplicaSet.
func ownAnnotation(key string) bool {
	switch key {
	case corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation, appsv1.DeprecatedRollbackTo:
		return true
	}
	return false
}

// revision is the number of the rollout that an object is part of; 0 if it has none.
func revision(obj metav1.Object) int64 {
	n, err := strconv.ParseInt(obj.GetAnnotations()[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// nextRevision is one more than that of any old ReplicaSet.
func (r *rollout) nextRevision() int64 {
	highest := int64(0)
	for _, set := range r.old {
		highest = max(highest, revision(set))
	}
	return highest + 1
}

func setRevision(d *appsv1.Deployment, revision string) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[revisionAnnotation] = revision
}

// annotate copies the Deployment's annotations to the new ReplicaSet and raises its revision. A revision that
// it had before, because the Deployment went back to its template, goes into its history.
func (r *rollout) annotate(set *appsv1.ReplicaSet, next int64) (changed bool) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	for key, value := range r.Annotations {
		if have, ok := set.Annotations[key]; !ownAnnotation(key) && (!ok || have != value) {
			set.Annotations[key] = value
			changed = true
		}
	}
	before, had := set.Annotations[revisionAnnotation]
	n, err := strconv.ParseInt(before, 10, 64)
	if err != nil && before != "" || n >= next {
		return changed
	}
	set.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if had {
		set.Annotations[historyAnnotation] = appendHistory(set.Annotations[historyAnnotation], before)
	}
	return true
}

// appendHistory adds a revision to a comma-separated list and drops the oldest where it gets too long.
func appendHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	appended := history + "," + revision
	for len(appended) > maxHistoryLength {
		_, rest, found := strings.Cut(appended, ",")
		if !found {
			return history
		}
		appended = rest
	}
	return appended
}

// annotateSize notes on a ReplicaSet what the Deployment's size was when the ReplicaSet got its own.
func (r *rollout) annotateSize(set *appsv1.ReplicaSet) (changed bool) {
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	for key, n := range map[string]int32{
		desiredAnnotation: *r.Spec.Replicas,
		maxAnnotation:     *r.Spec.Replicas + maxSurge(r.Deployment),
	} {
		if value := strconv.Itoa(int(n)); set.Annotations[key] != value {
			set.Annotations[key] = value
			changed = true
		}
	}
	return changed
}

func sizeAnnotation(set *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseUint(set.Annotations[key], 10, 31)
	return int32(n), err == nil
}

// rollbackTo returns the revision that a client of the old API asked to go back to; 0 is the last one.
func rollbackTo(d *appsv1.Deployment) (int64, bool) {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	return n, err == nil
}

// rollback gives the Deployment the template of an earlier revision. (kubectl rollout undo does so itself.)
func (r *rollout) rollback(ctx context.Context) error {
	if err := r.refreshNew(ctx); err != nil {
		return err
	}
	if r.new == nil {
		if err := r.createNew(ctx); err != nil {
			return err
		}
	}
	wanted, _ := rollbackTo(r.Deployment)
	if wanted == 0 {
		wanted = secondHighest(r.all())
	}
	tell := r.rollbackToRevision(wanted)
	delete(r.Annotations, appsv1.DeprecatedRollbackTo)
	if _, err := r.client.AppsV1().Deployments(r.Namespace).Update(ctx, r.Deployment, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("roll back: %w", err)
	}
	tell()
	r.replaced = true
	return nil
}

// rollbackToRevision gives the Deployment the template of the revision, if there is one and it is another. tell says what came of it:
// it is for when that is written.
func (r *rollout) rollbackToRevision(wanted int64) (tell func()) {
	event := func(kind, reason, format string, args ...any) func() {
		return func() { r.events.Eventf(r.Deployment, kind, reason, format, args...) }
	}
	if wanted == 0 {
		return event(corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
	}
	for _, set := range r.all() {
		if revision(set) != wanted {
			continue
		}
		if sameTemplate(&r.Spec.Template, &set.Spec.Template) {
			return event(corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged", "The rollback revision contains the same template as current deployment %q", r.Name)
		}
		r.Spec.Template = *set.Spec.Template.DeepCopy()
		delete(r.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		r.takeAnnotations(set)
		return event(corev1.EventTypeNormal, "DeploymentRollback", "Rolled back deployment %q to revision %d", r.Name, wanted)
	}
	return event(corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
}

// takeAnnotations replaces the Deployment's annotations by those it had when the ReplicaSet was new.
func (r *rollout) takeAnnotations(set *appsv1.ReplicaSet) {
	for key := range r.Annotations {
		if !ownAnnotation(key) {
			delete(r.Annotations, key)
		}
	}
	for key, value := range set.Annotations {
		if !ownAnnotation(key) {
			r.Annotations[key] = value
		}
	}
}

// secondHighest is the revision before the current one; 0 if there is none.
func secondHighest(sets []*appsv1.ReplicaSet) int64 {
	first, second := int64(0), int64(0)
	for _, set := range sets {
		switch n := revision(set); {
		case n >= first:
			first, second = n, first
		case n > second:
			second = n
		}
	}
	return second
}
