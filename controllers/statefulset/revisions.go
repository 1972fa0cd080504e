// SPDX-License-Identifier: Apache-2.0

package statefulset

import (
	"bytes"
	"context"
	"hash/fnv"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/skiff-k8s/skiff/controllers/history"
	"github.com/skiff-k8s/skiff/registry/podspec"
)

// hashLabel tells ControllerRevisions of a StatefulSet apart.
const hashLabel = "controller.kubernetes.io/hash"

// maxNamePrefix is how much of the set's name goes into the name of a revision.
const maxNamePrefix = 223

// updateRevision returns the revision of the set's template: the last one if the template is still the same, an older
// one that becomes the last again if the template came back, or a new one. collisions counts templates with the same hash.
func (c *controller) updateRevision(ctx context.Context, set *appsv1.StatefulSet, revisions []*appsv1.ControllerRevision, collisions *int32) (*appsv1.ControllerRevision, error) {
	data, err := history.Data(&set.Spec.Template)
	if err != nil {
		return nil, err
	}
	next := int64(1)
	var last *appsv1.ControllerRevision
	if n := len(revisions); n > 0 {
		last = revisions[n-1]
		next = last.Revision + 1
		if sameTemplate(set, data, last) {
			return last, nil
		}
	}
	for i := len(revisions) - 1; i >= 0; i-- {
		if bytes.Equal(revisions[i].Data.Raw, data) {
			return c.history.Renumber(ctx, revisions[i], next)
		}
	}
	return c.createRevision(ctx, newRevision(set, data, next, *collisions), collisions)
}

// sameTemplate tells whether the last revision brings back the template that the set has. Its bytes may differ all the
// same: when it was written, a field of the API was written differently, or there was none yet that now has a default.
func sameTemplate(set *appsv1.StatefulSet, data []byte, last *appsv1.ControllerRevision) bool {
	if bytes.Equal(last.Data.Raw, data) {
		return true
	}
	template, err := history.Template(last)
	if err != nil {
		return false
	}
	podspec.DefaultTemplate(template)
	return apiequality.Semantic.DeepEqual(*template, set.Spec.Template)
}

func newRevision(set *appsv1.StatefulSet, data []byte, number int64, collisions int32) *appsv1.ControllerRevision {
	hash := hashOf(data, collisions)
	revision := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       set.Namespace,
			Name:            revisionName(set.Name, hash),
			Labels:          map[string]string{},
			Annotations:     maps.Clone(set.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
	maps.Copy(revision.Labels, set.Spec.Template.Labels)
	revision.Labels[hashLabel] = hash
	return revision
}

// createRevision creates a revision under the first name that no other template has.
func (c *controller) createRevision(ctx context.Context, revision *appsv1.ControllerRevision, collisions *int32) (*appsv1.ControllerRevision, error) {
	setName := revision.OwnerReferences[0].Name
	for {
		created, err := c.history.Create(ctx, revision)
		if !apierrors.IsAlreadyExists(err) {
			return created, err
		}
		existing, err := c.history.Live(ctx, revision)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(existing.Data.Raw, revision.Data.Raw) {
			return existing, nil // our own, which the cache does not have yet
		}
		*collisions++
		revision.Name = revisionName(setName, hashOf(revision.Data.Raw, *collisions))
	}
}

// hashOf is as upstream's, so that a cluster that changes hands keeps its revisions.
func hashOf(data []byte, collisions int32) string {
	hasher := fnv.New32()
	hasher.Write(data)
	hasher.Write([]byte(strconv.FormatInt(int64(collisions), 10)))
	return rand.SafeEncodeString(strconv.FormatUint(uint64(hasher.Sum32()), 10))
}

func revisionName(set, hash string) string {
	return set[:min(len(set), maxNamePrefix)] + "-" + hash
}

// currentRevision is the revision that pods have which are not to be updated (yet).
func currentRevision(set *appsv1.StatefulSet, revisions []*appsv1.ControllerRevision, update *appsv1.ControllerRevision) *appsv1.ControllerRevision {
	for _, revision := range revisions {
		if revision.Name == set.Status.CurrentRevision {
			return revision
		}
	}
	return update
}

// forgetRevisions deletes the oldest revisions that no pod has, down to spec.revisionHistoryLimit.
func (r *rollout) forgetRevisions(ctx context.Context, revisions []*appsv1.ControllerRevision) error {
	for _, revision := range r.surplusRevisions(revisions) {
		if err := r.history.Delete(ctx, revision); err != nil {
			return err
		}
	}
	return nil
}

func (r *rollout) surplusRevisions(revisions []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	live := map[string]bool{r.current.Name: true, r.update.Name: true}
	for _, pod := range r.pods {
		live[pod.Labels[appsv1.StatefulSetRevisionLabel]] = true
	}
	var old []*appsv1.ControllerRevision
	for _, revision := range revisions {
		if !live[revision.Name] {
			old = append(old, revision)
		}
	}
	limit := int(*r.set.Spec.RevisionHistoryLimit)
	if limit < 0 {
		return nil
	}
	return old[:max(0, len(old)-limit)]
}
