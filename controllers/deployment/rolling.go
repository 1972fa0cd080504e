// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/skiff-k8s/skiff/controllers/owner"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// bounds resolves maxSurge (rounded up) and maxUnavailable (rounded down) to numbers of pods. Both are 0
// for Recreate. Both cannot be 0 for a rolling update, which could never take a step.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	desired := int(*d.Spec.Replicas)
	zero := intstr.FromInt32(0)
	// Validation has made sure that these are numbers or percentages.
	s, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(rolling.MaxSurge, zero), desired, true)
	u, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(rolling.MaxUnavailable, zero), desired, false)
	if s == 0 && u == 0 {
		u = 1
	}
	return int32(s), int32(min(u, desired))
}

func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := bounds(d)
	return surge
}

// minAvailable is how many pods a rolling update must leave available.
func minAvailable(d *appsv1.Deployment) int32 {
	_, unavailable := bounds(d)
	return *d.Spec.Replicas - unavailable
}

// newSize returns how large the new ReplicaSet, now of size current, may be.
func (r *rollout) newSize(current int32) int32 {
	desired := *r.Spec.Replicas
	if r.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return desired
	}
	room := desired + maxSurge(r.Deployment) - specReplicas(r.all())
	if room <= 0 {
		return current
	}
	return current + min(room, desired-current)
}

// rollingUpdate scales the new ReplicaSet up or the old ones down, whichever is possible first.
func (r *rollout) rollingUpdate(ctx context.Context) error {
	if r.new == nil {
		if err := r.createNew(ctx); err != nil {
			return err
		}
	}
	changed, err := r.growNew(ctx)
	if err == nil && !changed {
		changed, err = r.shrinkOld(ctx)
	}
	if err != nil {
		return err
	}
	if !changed && complete(r.Deployment, &r.Status) {
		if err := r.cleanUp(ctx); err != nil {
			return err
		}
	}
	r.progress()
	return nil
}

func (r *rollout) growNew(ctx context.Context) (bool, error) {
	current := *r.new.Spec.Replicas
	switch {
	case current == *r.Spec.Replicas:
		return false, nil
	case current > *r.Spec.Replicas:
		return r.resize(ctx, r.new, *r.Spec.Replicas)
	}
	return r.resize(ctx, r.new, r.newSize(current))
}

// shrinkOld takes replicas from the old ReplicaSets: first those that are not available anyway, then as many
// as the available pods of all together allow.
func (r *rollout) shrinkOld(ctx context.Context) (bool, error) {
	if specReplicas(r.old) == 0 {
		return false, nil
	}
	unavailableNew := *r.new.Spec.Replicas - r.new.Status.AvailableReplicas
	budget := specReplicas(r.all()) - minAvailable(r.Deployment) - unavailableNew
	if budget <= 0 {
		return false, nil
	}
	unhealthy, err := r.shrink(ctx, budget, func(set *appsv1.ReplicaSet) int32 {
		return *set.Spec.Replicas - set.Status.AvailableReplicas
	})
	if err != nil {
		return false, err
	}
	healthy, err := r.shrink(ctx, availableReplicas(r.all())-minAvailable(r.Deployment), func(set *appsv1.ReplicaSet) int32 {
		return *set.Spec.Replicas
	})
	return unhealthy || healthy, err
}

// shrink takes up to budget replicas from the old ReplicaSets, oldest first, and from each as many as spare allows.
func (r *rollout) shrink(ctx context.Context, budget int32, spare func(*appsv1.ReplicaSet) int32) (bool, error) {
	changed := false
	for _, set := range r.old {
		n := min(budget, spare(set), *set.Spec.Replicas)
		if n <= 0 {
			continue
		}
		resized, err := r.resize(ctx, set, *set.Spec.Replicas-n)
		if err != nil {
			return changed, err
		}
		changed = changed || resized
		budget -= n
	}
	return changed, nil
}

// recreate removes all old pods before the first new one is made.
func (r *rollout) recreate(ctx context.Context) error {
	shrunk, err := r.shrink(ctx, specReplicas(r.old), func(set *appsv1.ReplicaSet) int32 { return *set.Spec.Replicas })
	if err != nil {
		return err
	}
	running, err := r.oldPodsRunning()
	if err != nil {
		return err
	}
	if shrunk || running {
		r.progress()
		return nil
	}
	if r.new == nil {
		if err := r.createNew(ctx); err != nil {
			return err
		}
	}
	if _, err := r.resize(ctx, r.new, *r.Spec.Replicas); err != nil {
		return err
	}
	if complete(r.Deployment, &r.Status) {
		if err := r.cleanUp(ctx); err != nil {
			return err
		}
	}
	r.progress()
	return nil
}

// oldPodsRunning tells whether an old ReplicaSet still counts or has pods that have not ended.
func (r *rollout) oldPodsRunning() (bool, error) {
	for _, set := range r.old {
		if set.Status.Replicas > 0 {
			return true, nil
		}
		pods, err := owner.Owned[*corev1.Pod](r.pods, set.UID)
		if err != nil {
			return false, err
		}
		for _, pod := range pods {
			if !podcontrol.Terminal(pod) {
				return true, nil
			}
		}
	}
	return false, nil
}
