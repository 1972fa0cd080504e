// SPDX-License-Identifier: Apache-2.0

package daemonset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/history"
	"github.com/skiff-k8s/skiff/controllers/podcontrol"
)

const hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey

// revisionLabels are those by which pods of the current template are known.
func (s *state) revisionLabels() map[string]string {
	all := map[string]string{}
	if s.hash != "" {
		all[hashLabel] = s.hash
	}
	if generation := s.set.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
		all[templateGenerationLabel] = generation
	}
	return all
}

// updated tells whether the pod is of the current template.
func (s *state) updated(pod *corev1.Pod) bool {
	for label, value := range s.revisionLabels() {
		if pod.Labels[label] == value {
			return true
		}
	}
	return false
}

// resolveRevisions finds or creates the revision of the template, gives it the highest number, and learns the hash and the old
// revisions.
func (s *state) resolveRevisions(ctx context.Context, selector labels.Selector, live func(context.Context) (metav1.Object, error)) error {
	revisions, err := s.history.Claim(ctx, s.set, selector, live)
	if err != nil {
		return err
	}
	data, err := history.Data(&s.set.Spec.Template)
	if err != nil {
		return err
	}
	var same []*appsv1.ControllerRevision
	next := int64(1)
	for _, revision := range revisions {
		if revision.Labels[hashLabel] == "" {
			if revision, err = s.label(ctx, revision); err != nil {
				return err
			}
		}
		if bytes.Equal(revision.Data.Raw, data) {
			same = append(same, revision)
		} else {
			s.old = append(s.old, revision)
			next = max(next, revision.Revision+1)
		}
	}
	var current *appsv1.ControllerRevision
	if len(same) == 0 {
		current, err = s.createRevision(ctx, data, next)
	} else if current, err = s.keepOne(ctx, same); err == nil && current.Revision < next {
		current, err = s.history.Renumber(ctx, current, next)
	}
	if err != nil {
		return err
	}
	s.hash = current.Labels[hashLabel]
	return nil
}

// label gives a revision from before there were hashes a label that tells it from the others.
func (s *state) label(ctx context.Context, revision *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	changed := revision.DeepCopy()
	metav1.SetMetaDataLabel(&changed.ObjectMeta, hashLabel, changed.Name)
	return s.history.Update(ctx, changed)
}

// createRevision creates the revision of the template. If another template has the same hash, the DaemonSet's count of
// collisions goes up, and the next call makes another hash.
func (s *state) createRevision(ctx context.Context, data []byte, number int64) (*appsv1.ControllerRevision, error) {
	hash := podcontrol.TemplateHash(&s.set.Spec.Template, s.set.Status.CollisionCount)
	revision := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       s.set.Namespace,
			Name:            s.set.Name + "-" + hash,
			Labels:          map[string]string{},
			Annotations:     s.set.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.set, kind)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
	maps.Copy(revision.Labels, s.set.Spec.Template.Labels)
	revision.Labels[hashLabel] = hash
	created, err := s.history.Create(ctx, revision)
	if !apierrors.IsAlreadyExists(err) {
		return created, err
	}
	existing, getErr := s.history.Live(ctx, revision)
	if getErr != nil {
		return nil, getErr
	}
	if bytes.Equal(existing.Data.Raw, data) {
		return existing, nil // our own, which the cache does not have yet
	}
	return nil, s.countCollision(ctx, err)
}

func (s *state) countCollision(ctx context.Context, collision error) error {
	sets := s.client.AppsV1().DaemonSets(s.set.Namespace)
	set, err := sets.Get(ctx, s.set.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !ptr.Equal(set.Status.CollisionCount, s.set.Status.CollisionCount) {
		return fmt.Errorf("found a stale collision count of DaemonSet %q while processing; will retry until it is updated", s.set.Name)
	}
	set.Status.CollisionCount = ptr.To(ptr.Deref(set.Status.CollisionCount, 0) + 1)
	if _, err := sets.UpdateStatus(ctx, set, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return collision
}

// keepOne keeps the last of several revisions with the same template, and makes the pods those of that one.
func (s *state) keepOne(ctx context.Context, same []*appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	keep := same[len(same)-1] // they are in order
	if len(same) == 1 {
		return keep, nil
	}
	hash := keep.Labels[hashLabel]
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{hashLabel: hash}}})
	if err != nil {
		return nil, err
	}
	for _, pod := range s.pods {
		if pod.Labels[hashLabel] == hash {
			continue
		}
		if _, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return nil, err
		}
	}
	for _, revision := range same[:len(same)-1] {
		if err := s.history.Delete(ctx, revision); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

// forgetRevisions deletes the oldest revisions that no pod has, down to spec.revisionHistoryLimit.
func (s *state) forgetRevisions(ctx context.Context) error {
	for _, revision := range s.surplusRevisions() {
		if err := s.history.Delete(ctx, revision); err != nil {
			return err
		}
	}
	return nil
}

func (s *state) surplusRevisions() []*appsv1.ControllerRevision {
	surplus := len(s.old) - int(ptr.Deref(s.set.Spec.RevisionHistoryLimit, 10))
	live := map[string]bool{}
	for _, pod := range s.pods {
		live[pod.Labels[hashLabel]] = true
	}
	history.Sort(s.old)
	var doomed []*appsv1.ControllerRevision
	for _, revision := range s.old {
		if len(doomed) < surplus && !live[revision.Labels[hashLabel]] {
			doomed = append(doomed, revision)
		}
	}
	return doomed
}
