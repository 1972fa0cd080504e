// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// active returns the ReplicaSets that ask for pods.
func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var active []*appsv1.ReplicaSet
	for _, set := range sets {
		if *set.Spec.Replicas > 0 {
			active = append(active, set)
		}
	}
	return active
}

func specReplicas(sets []*appsv1.ReplicaSet) int32 {
	return sum(sets, func(set *appsv1.ReplicaSet) int32 { return *set.Spec.Replicas })
}

func availableReplicas(sets []*appsv1.ReplicaSet) int32 {
	return sum(sets, func(set *appsv1.ReplicaSet) int32 { return set.Status.AvailableReplicas })
}

func sum(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	total := int32(0)
	for _, set := range sets {
		total += of(set)
	}
	return total
}

// resize sets the size of a ReplicaSet and the annotations that go with it. If the size is right already, it does nothing.
func (r *rollout) resize(ctx context.Context, set *appsv1.ReplicaSet, size int32) (bool, error) {
	if *set.Spec.Replicas == size {
		return false, nil
	}
	return true, r.resizeAndAnnotate(ctx, set, size)
}

// resizeAndAnnotate is resize for when the annotations may be wrong though the size is right.
func (r *rollout) resizeAndAnnotate(ctx context.Context, set *appsv1.ReplicaSet, size int32) error {
	before := *set.Spec.Replicas
	annotated := r.annotateSize(set)
	if before == size && !annotated {
		return nil
	}
	*set.Spec.Replicas = size
	if err := r.update(ctx, set); err != nil {
		return err
	}
	if before != size {
		direction := "up"
		if size < before {
			direction = "down"
		}
		r.events.Eventf(r.Deployment, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction, set.Name, before, size)
	}
	return nil
}

// wasScaled tells whether spec.replicas has changed since the ReplicaSets got their sizes.
func (r *rollout) wasScaled() bool {
	return slices.ContainsFunc(active(r.all()), func(set *appsv1.ReplicaSet) bool {
		desired, ok := sizeAnnotation(set, desiredAnnotation)
		return ok && desired != *r.Spec.Replicas
	})
}

// scale spreads a changed spec.replicas over the ReplicaSets without taking the rollout further: in the
// middle of a rolling update all grow or shrink in proportion, so that a bad template does not gain ground.
func (r *rollout) scale(ctx context.Context) error {
	desired := *r.Spec.Replicas
	if set := r.onlyActiveOrLatest(); set != nil {
		_, err := r.resize(ctx, set, desired)
		return err
	}
	if len(r.all()) == 0 {
		return nil
	}
	if r.saturated() {
		for _, set := range active(r.old) {
			if _, err := r.resize(ctx, set, 0); err != nil {
				return err
			}
		}
		return nil
	}
	if r.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	sets := active(r.all())
	for i, size := range proportions(r.Deployment, sets) {
		if err := r.resizeAndAnnotate(ctx, sets[i], size); err != nil {
			return err
		}
	}
	return nil
}

// onlyActiveOrLatest returns the one ReplicaSet that has replicas; if none has, the new or else the youngest;
// nil if several have.
func (r *rollout) onlyActiveOrLatest() *appsv1.ReplicaSet {
	sets := active(r.all())
	switch {
	case len(sets) == 1:
		return sets[0]
	case len(sets) > 1:
		return nil
	case r.new != nil:
		return r.new
	case len(r.old) > 0:
		return r.old[len(r.old)-1]
	}
	return nil
}

// saturated tells whether the new ReplicaSet has all replicas, was meant to, and all are available.
func (r *rollout) saturated() bool {
	if r.new == nil {
		return false
	}
	desired, ok := sizeAnnotation(r.new, desiredAnnotation)
	return ok && desired == *r.Spec.Replicas && *r.new.Spec.Replicas == *r.Spec.Replicas &&
		r.new.Status.AvailableReplicas == *r.Spec.Replicas
}

// proportions sorts sets from the largest to the smallest and returns the size that each should have so that
// together they have what the Deployment may have, shared out by their present sizes. What rounding leaves
// over goes to the largest. Of equals, the youngest grows first and the oldest shrinks first.
func proportions(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) []int32 {
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + maxSurge(d)
	}
	toAdd := allowed - specReplicas(sets)
	slices.SortFunc(sets, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, set := range sets {
		share := int32(0)
		if left := toAdd - added; left > 0 {
			share = min(fraction(d, set), left)
		} else if left < 0 {
			share = max(fraction(d, set), left)
		}
		sizes[i] = *set.Spec.Replicas + share
		added += share
	}
	if len(sizes) > 0 {
		sizes[0] = max(0, sizes[0]+toAdd-added)
	}
	return sizes
}

// fraction is by how much a ReplicaSet would change if it changed as much as the Deployment has since
// the ReplicaSet's size was last set.
func fraction(d *appsv1.Deployment, set *appsv1.ReplicaSet) int32 {
	size := *set.Spec.Replicas
	if *d.Spec.Replicas == 0 {
		return -size
	}
	before, ok := sizeAnnotation(set, maxAnnotation)
	if !ok || before == 0 {
		before = d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	after := *d.Spec.Replicas + maxSurge(d)
	return int32(math.Round(float64(size)*float64(after)/float64(before))) - size
}

// cleanUp deletes old ReplicaSets without pods beyond spec.revisionHistoryLimit, lowest revision first.
func (r *rollout) cleanUp(ctx context.Context) error {
	limit := r.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	var candidates []*appsv1.ReplicaSet
	for _, set := range r.old {
		if set.DeletionTimestamp == nil {
			candidates = append(candidates, set)
		}
	}
	surplus := len(candidates) - int(*limit)
	if surplus <= 0 {
		return nil
	}
	slices.SortStableFunc(candidates, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), byAge(a, b))
	})
	for _, set := range candidates[:surplus] {
		if set.Status.Replicas != 0 || *set.Spec.Replicas != 0 || set.Generation > set.Status.ObservedGeneration {
			continue
		}
		err := r.client.AppsV1().ReplicaSets(set.Namespace).Delete(ctx, set.Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old ReplicaSet %s: %w", set.Name, err)
		}
	}
	return nil
}
