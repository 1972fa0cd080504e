// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// createError is the failure to create the new ReplicaSet, which a condition tells about.
type createError struct{ error }

// sort tells the new ReplicaSet from the old ones. If several have the current template, the oldest is the new one.
func (r *rollout) sort(sets []*appsv1.ReplicaSet) {
	slices.SortFunc(sets, byAge)
	for _, set := range sets {
		if r.new == nil && sameTemplate(&set.Spec.Template, &r.Spec.Template) {
			r.new = set
		} else {
			r.old = append(r.old, set)
		}
	}
}

func byAge(a, b *appsv1.ReplicaSet) int {
	if a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return strings.Compare(a.Name, b.Name)
	}
	return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
}

// sameTemplate compares two templates but for the label that carries the hash.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	strip := func(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
		stripped := *t
		stripped.Labels = maps.Clone(t.Labels)
		delete(stripped.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
		return &stripped
	}
	return apiequality.Semantic.DeepEqual(strip(a), strip(b))
}

// refreshNew brings revision, annotations and minReadySeconds of the new ReplicaSet up to date, if it exists.
func (r *rollout) refreshNew(ctx context.Context) error {
	if r.new == nil {
		return nil
	}
	annotated := r.annotate(r.new, r.nextRevision())
	if annotated || r.new.Spec.MinReadySeconds != r.Spec.MinReadySeconds {
		r.new.Spec.MinReadySeconds = r.Spec.MinReadySeconds
		if err := r.update(ctx, r.new); err != nil {
			return err
		}
	}
	setRevision(r.Deployment, r.new.Annotations[revisionAnnotation])
	if r.hasDeadline() && condition(&r.Status, appsv1.DeploymentProgressing) == nil {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", r.new.Name))
	}
	return nil
}

// update writes a ReplicaSet and keeps what the API server made of it.
func (r *rollout) update(ctx context.Context, set *appsv1.ReplicaSet) error {
	updated, err := r.client.AppsV1().ReplicaSets(set.Namespace).Update(ctx, set, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update ReplicaSet %s: %w", set.Name, err)
	}
	*set = *updated
	return nil
}

// createNew makes the ReplicaSet of the current template, as large as the strategy allows right now.
func (r *rollout) createNew(ctx context.Context) error {
	set := r.newReplicaSet()
	created, err := r.client.AppsV1().ReplicaSets(r.Namespace).Create(ctx, set, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return r.useExisting(ctx, set.Name, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		msg := fmt.Sprintf("Failed to create new replica set %q: %v", set.Name, err)
		if r.hasDeadline() {
			r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", msg)
		}
		r.events.Event(r.Deployment, corev1.EventTypeWarning, "ReplicaSetCreateError", msg)
		return &createError{err}
	}
	r.new = created
	if *created.Spec.Replicas > 0 {
		r.events.Eventf(r.Deployment, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, *created.Spec.Replicas)
	}
	setRevision(r.Deployment, created.Annotations[revisionAnnotation])
	if r.hasDeadline() {
		r.setCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", created.Name))
	}
	return nil
}

func (r *rollout) newReplicaSet() *appsv1.ReplicaSet {
	template := *r.Spec.Template.DeepCopy()
	hash := podcontrol.TemplateHash(&template, r.Status.CollisionCount)
	if template.Labels == nil {
		template.Labels = map[string]string{}
	}
	template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	selector := r.Spec.Selector.DeepCopy()
	if selector.MatchLabels == nil {
		selector.MatchLabels = map[string]string{}
	}
	selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            replicaSetName(r.Name, hash),
			Namespace:       r.Namespace,
			Labels:          maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.Deployment, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        new(int32),
			MinReadySeconds: r.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        template,
		},
	}
	*set.Spec.Replicas = r.newSize(0)
	r.annotate(set, r.nextRevision())
	r.annotateSize(set)
	return set
}

// useExisting takes a ReplicaSet that the cache did not know yet, if it is ours and has our template.
// If not, two templates have the same hash: the collision count makes the next hash another one.
func (r *rollout) useExisting(ctx context.Context, name string, alreadyExists error) error {
	set, err := r.client.AppsV1().ReplicaSets(r.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if metav1.IsControlledBy(set, r.Deployment) && sameTemplate(&set.Spec.Template, &r.Spec.Template) {
		r.new = set
		setRevision(r.Deployment, set.Annotations[revisionAnnotation])
		return nil
	}
	if r.Status.CollisionCount == nil {
		r.Status.CollisionCount = new(int32)
	}
	*r.Status.CollisionCount++
	return &createError{alreadyExists}
}

// replicaSetName shortens the Deployment's name where name and hash would be too long together.
func replicaSetName(deployment, hash string) string {
	if longest := validation.DNS1123SubdomainMaxLength - len(hash) - 1; len(deployment) > longest {
		deployment = deployment[:longest]
	}
	return deployment + "-" + hash
}
