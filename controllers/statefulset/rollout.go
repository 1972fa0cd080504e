// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/history"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

// rollout is what is known of one StatefulSet in one call of Reconcile.
type rollout struct {
	*controller
	set             *appsv1.StatefulSet
	now             time.Time
	pods            []*corev1.Pod
	current, update *appsv1.ControllerRevision
	status          appsv1.StatefulSetStatus // to be written

	replicas      []*corev1.Pod // those that are wanted, by number; one that does not exist is as it will be created
	condemned     []*corev1.Pod // those that are not, highest number first
	firstUnwell   *corev1.Pod   // the unavailable pod with the lowest number, wanted ones before others
	oneAfterOther bool          // pods are waited for
}

func (c *controller) newRollout(ctx context.Context, set *appsv1.StatefulSet, pods []*corev1.Pod, revisions []*appsv1.ControllerRevision) (*rollout, error) {
	collisions := ptr.Deref(set.Status.CollisionCount, 0)
	update, err := c.updateRevision(ctx, set, revisions, &collisions)
	if err != nil {
		return nil, err
	}
	current := currentRevision(set, revisions, update)
	currentTemplate := &set.Spec.Template
	if current.Name != update.Name {
		if currentTemplate, err = history.Template(current); err != nil {
			return nil, err
		}
	}
	r := &rollout{controller: c, set: set, now: time.Now(), pods: pods, current: current, update: update}
	r.count(collisions)
	r.sort(currentTemplate)
	return r, nil
}

// count makes the status.
func (r *rollout) count(collisions int32) {
	r.status = appsv1.StatefulSetStatus{
		ObservedGeneration: r.set.Generation,
		CurrentRevision:    r.current.Name,
		UpdateRevision:     r.update.Name,
		CollisionCount:     &collisions,
		Conditions:         slices.Clone(r.set.Status.Conditions),
	}
	for _, pod := range r.pods {
		r.status.Replicas++
		if runningAndReady(pod) {
			r.status.ReadyReplicas++
			if podcontrol.Available(pod, r.set.Spec.MinReadySeconds, r.now) {
				r.status.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		if revisionOf(pod) == r.current.Name {
			r.status.CurrentReplicas++
		}
		if revisionOf(pod) == r.update.Name {
			r.status.UpdatedReplicas++
		}
	}
}

// sort tells pods that are wanted from others, and makes those that are missing.
func (r *rollout) sort(currentTemplate *corev1.PodTemplateSpec) {
	r.oneAfterOther = r.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	first := firstOrdinal(r.set)
	r.replicas = make([]*corev1.Pod, *r.set.Spec.Replicas)
	for _, pod := range r.pods {
		if ordinal := ordinalOf(pod); wanted(r.set, ordinal) {
			r.replicas[ordinal-first] = pod
		} else {
			r.condemned = append(r.condemned, pod)
		}
	}
	slices.SortFunc(r.condemned, func(a, b *corev1.Pod) int { return cmp.Compare(ordinalOf(b), ordinalOf(a)) })
	for i := range r.replicas {
		switch {
		case r.replicas[i] != nil:
		case r.staysBehind(i):
			r.replicas[i] = newPod(r.set, currentTemplate, r.current.Name, first+i)
		default:
			r.replicas[i] = newPod(r.set, &r.set.Spec.Template, r.update.Name, first+i)
		}
	}
	for _, pod := range slices.Concat(r.replicas, reversed(r.condemned)) {
		if r.unavailable(pod) {
			r.firstUnwell = pod
			break
		}
	}
}

func reversed(pods []*corev1.Pod) []*corev1.Pod {
	pods = slices.Clone(pods)
	slices.Reverse(pods)
	return pods
}

func (r *rollout) unavailable(pod *corev1.Pod) bool {
	return unavailable(pod, r.set.Spec.MinReadySeconds, r.now)
}

// staysBehind tells whether a missing pod, the i-th, is made anew at the current revision rather than at the update's.
func (r *rollout) staysBehind(i int) bool {
	strategy := &r.set.Spec.UpdateStrategy
	switch {
	case strategy.RollingUpdate != nil:
		return i < int(ptr.Deref(strategy.RollingUpdate.Partition, 0))
	case strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType:
		return i < int(r.set.Status.CurrentReplicas)
	}
	return false
}

// step does what can be done now: pods are created and repaired first, those that are too many go next, and only then are
// pods updated.
func (r *rollout) step(ctx context.Context) error {
	if r.set.DeletionTimestamp != nil {
		return nil
	}
	if r.set.Spec.UpdateStrategy.Type == appsv1.RecreateStatefulSetStrategyType {
		err := fmt.Errorf("statefulset %s/%s uses Recreate strategy but feature gate StatefulSetRecreateStrategy is disabled", r.set.Namespace, r.set.Name)
		r.events.Event(r.set, corev1.EventTypeWarning, "UnknownStrategy", err.Error())
		return err
	}
	for _, do := range []struct {
		pods []*corev1.Pod
		what func(context.Context, *corev1.Pod) (wait bool, err error)
	}{
		{r.replicas, r.keep},
		{r.condemned, r.keepClaims},
		{r.condemned, r.remove},
	} {
		if wait, err := r.forAll(ctx, do.pods, do.what); wait || err != nil {
			return err
		}
	}
	return r.updatePods(ctx)
}

// forAll does something to each of the pods: one after the other until one is to be waited for, or all at once.
func (r *rollout) forAll(ctx context.Context, pods []*corev1.Pod, do func(context.Context, *corev1.Pod) (bool, error)) (wait bool, err error) {
	if !r.oneAfterOther {
		_, err := podcontrol.SlowStart(len(pods), func(i int) error {
			_, err := do(ctx, pods[i])
			return err
		})
		return false, err
	}
	for _, pod := range pods {
		if wait, err := do(ctx, pod); wait || err != nil {
			return true, err
		}
	}
	return false, nil
}

// keep creates a pod that is missing, or repairs it. wait says that the next pod has to wait for this one.
func (r *rollout) keep(ctx context.Context, pod *corev1.Pod) (wait bool, err error) {
	switch {
	case podcontrol.Terminal(pod): // whatever the reason, it comes back
		if pod.DeletionTimestamp == nil {
			err = r.delete(ctx, pod)
		}
		return true, err
	case !created(pod):
		if outlive, err := r.claimsOutlive(pod); outlive || err != nil {
			return true, err
		}
		return true, r.create(ctx, pod)
	case pod.Status.Phase == corev1.PodPending: // maybe because a claim was deleted
		if err := r.createClaims(ctx, pod); err != nil {
			return true, err
		}
		if err := r.ownClaims(ctx, pod); err != nil {
			return true, err
		}
	}
	if r.oneAfterOther && (!runningAndReady(pod) || r.unavailable(pod)) {
		return true, nil
	}
	owned, err := r.claimsOwned(pod)
	if err != nil || owned && identified(r.set, pod) && claimsMounted(r.set, pod) {
		return false, err
	}
	return false, r.repair(ctx, pod)
}

// keepClaims repairs the owners of the claims of a pod that is to go.
func (r *rollout) keepClaims(ctx context.Context, pod *corev1.Pod) (wait bool, err error) {
	if owned, err := r.claimsOwned(pod); owned || err != nil {
		return false, err
	}
	return false, r.ownClaims(ctx, pod)
}

// remove deletes a pod that is not wanted. While another pod is not well, only that one itself goes.
func (r *rollout) remove(ctx context.Context, pod *corev1.Pod) (wait bool, err error) {
	if pod.DeletionTimestamp != nil {
		return true, nil
	}
	if r.oneAfterOther && pod != r.firstUnwell && (!runningAndReady(pod) || r.unavailable(pod)) {
		return true, nil
	}
	return true, r.delete(ctx, pod)
}

// updatePods deletes pods of other revisions, which come back at the update's.
func (r *rollout) updatePods(ctx context.Context) error {
	if r.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	outdated, err := r.toUpdate()
	if err != nil {
		return err
	}
	for _, pod := range outdated {
		if err := r.delete(ctx, pod); err != nil {
			return err
		}
		if revisionOf(pod) == r.current.Name {
			r.status.CurrentReplicas--
		}
	}
	return nil
}

// toUpdate returns the pods to delete now for an update: highest number first, down to the partition, and no more than
// may be unavailable.
func (r *rollout) toUpdate() ([]*corev1.Pod, error) {
	partition := 0
	if rolling := r.set.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		partition = int(ptr.Deref(rolling.Partition, 0))
	}
	budget, err := r.maxUnavailable()
	if err != nil {
		return nil, err
	}
	budget -= len(podcontrol.Filter(r.replicas, r.unavailable))
	candidates := reversed(r.replicas[min(partition, len(r.replicas)):])
	candidates = podcontrol.Filter(candidates, func(pod *corev1.Pod) bool {
		return created(pod) && revisionOf(pod) != r.update.Name && pod.DeletionTimestamp == nil
	})
	if r.oneAfterOther {
		return candidates[:max(0, min(budget, len(candidates)))], nil
	}
	// Those that do not serve anyway go first, and take nothing from the budget.
	unwell := podcontrol.Filter(candidates, r.unavailable)
	well := podcontrol.Filter(candidates, func(pod *corev1.Pod) bool { return !r.unavailable(pod) })
	return append(unwell, well[:max(0, min(budget, len(well)))]...), nil
}

// maxUnavailable is how many pods an update may leave unavailable.
func (r *rollout) maxUnavailable() (int, error) {
	rolling := r.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil {
		return 1, nil
	}
	value := ptr.Deref(rolling.MaxUnavailable, intstr.FromInt32(1))
	n, err := intstr.GetScaledValueFromIntOrPercent(&value, len(r.replicas), false)
	return max(n, 1), err
}

// measure tells how many pods may be unavailable, and how many are.
func (r *rollout) measure() {
	most, err := r.maxUnavailable()
	if err != nil {
		return // the update fails with it
	}
	labels := []string{r.set.Namespace, r.set.Name, string(r.set.Spec.PodManagementPolicy)}
	r.metrics.MaxUnavailable.WithLabelValues(labels...).Set(float64(most))
	r.metrics.Unavailable.WithLabelValues(labels...).Set(float64(len(podcontrol.Filter(r.replicas, r.unavailable))))
}
