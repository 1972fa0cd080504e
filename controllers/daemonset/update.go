// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"cmp"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
)

// surges tells whether a new pod may run beside the old one.
func (s *state) surges() bool {
	n, err := s.limit(maxSurge, 1)
	return err == nil && n > 0
}

// maxSurge and maxUnavailable choose a limit of the rolling update; nil is none.
func maxSurge(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString       { return r.MaxSurge }
func maxUnavailable(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxUnavailable }

// limit computes a limit for that many nodes.
func (s *state) limit(of func(*appsv1.RollingUpdateDaemonSet) *intstr.IntOrString, nodes int) (int, error) {
	r := s.set.Spec.UpdateStrategy.RollingUpdate
	if s.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || r == nil {
		return 0, nil
	}
	value := ptr.Deref(of(r), intstr.FromInt32(0))
	return intstr.GetScaledValueFromIntOrPercent(&value, nodes, true)
}

// update plans the next step of a rolling update.
func (s *state) update() (plan, error) {
	wanted := sets.New[string]() // nodes where a pod should run
	for _, node := range s.nodes {
		if run, _ := s.placement.on(node); run {
			wanted.Insert(node.Name)
		}
	}
	surge, err := s.limit(maxSurge, len(wanted))
	if err != nil {
		return plan{}, fmt.Errorf("invalid value for MaxSurge: %w", err)
	}
	unavailable, err := s.limit(maxUnavailable, len(wanted))
	if err != nil {
		return plan{}, fmt.Errorf("invalid value for MaxUnavailable: %w", err)
	}
	nodes := sets.List(wanted.Union(sets.KeySet(s.byNode)))
	switch {
	case surge > 0:
		return s.updateBySurge(nodes, wanted, surge), nil
	case wanted.Len() > 0: // else there are only pods that may stay where no new ones may come
		unavailable = max(unavailable, 1)
	}
	return s.updateInPlace(nodes, unavailable), nil
}

// updateInPlace deletes old pods, which are replaced later: all that do not serve, and of the others as many as may be
// unavailable.
func (s *state) updateInPlace(nodes []string, mayLack int) plan {
	var p plan
	var candidates []*corev1.Pod
	for _, node := range nodes {
		newPod, oldPod, ok := s.generations(node)
		switch {
		case !ok, newPod == nil && oldPod == nil, newPod != nil && oldPod != nil: // manage puts it right
			mayLack--
		case newPod != nil:
			if !s.available(newPod) {
				mayLack--
			}
		case !s.available(oldPod):
			p.delete = append(p.delete, oldPod)
			mayLack--
		default:
			candidates = append(candidates, oldPod)
		}
	}
	p.delete = append(p.delete, candidates[:max(0, min(mayLack, len(candidates)))]...)
	return p
}

// updateBySurge creates new pods beside old ones, and deletes those old ones whose new one serves. On nodes that are no
// longer wanted, a pod goes when there are more that serve than are wanted.
func (s *state) updateBySurge(nodes []string, wanted sets.Set[string], maySurge int) plan {
	var p plan
	var candidates []string     // nodes whose old pod serves
	var misplaced []*corev1.Pod // pods that serve on nodes that are not wanted
	serving := 0
	for _, node := range nodes {
		newPod, oldPod, ok := s.generations(node)
		if !ok { // manage puts it right
			maySurge--
			continue
		}
		if pod := cmp.Or(oldPod, newPod); pod != nil && s.available(pod) {
			serving++
		}
		switch {
		case oldPod == nil:
		case newPod != nil && s.available(newPod):
			p.delete = append(p.delete, oldPod)
		case newPod != nil:
			maySurge--
		case !wanted.Has(node) && s.available(oldPod):
			misplaced = append(misplaced, oldPod)
		case !wanted.Has(node):
			p.delete = append(p.delete, oldPod)
		case s.available(oldPod):
			candidates = append(candidates, node)
		default:
			p.create = append(p.create, node)
		}
	}
	p.delete = append(p.delete, misplaced[:max(0, min(serving-len(wanted), len(misplaced)))]...)
	p.create = append(p.create, candidates[:max(0, min(maySurge, len(candidates)))]...)
	return p
}

// generations returns the node's pods of the new and of an old template. ok is false if there are several of either.
func (s *state) generations(node string) (newPod, oldPod *corev1.Pod, ok bool) {
	for _, pod := range s.byNode[node] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		which := &oldPod
		if s.updated(pod) {
			which = &newPod
		}
		if *which != nil {
			return nil, nil, false
		}
		*which = pod
	}
	return newPod, oldPod, true
}
