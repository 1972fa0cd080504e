// SPDX-License-Identifier: Apache-2.0

// Package history keeps the pod templates that a StatefulSet or DaemonSet has had. Each is a ControllerRevision: its
// data is a strategic merge patch that brings the template back, its number says how recent the template is. A
// template that comes back gets a new number, not a new ControllerRevision.
//
// How a ControllerRevision is named is up to its owner; what this package does not do is deciding which to keep.
package history

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/owner"
)

// Store finds and writes ControllerRevisions of one kind of owners.
type Store struct {
	client    kubernetes.Interface
	revisions cache.Indexer
	kind      schema.GroupVersionKind // of the owners
}

// New returns a store. Call it before the informers start.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, kind schema.GroupVersionKind) (*Store, error) {
	informer := factory.Apps().V1().ControllerRevisions().Informer()
	if err := owner.Index(informer); err != nil {
		return nil, err
	}
	return &Store{client: client, revisions: informer.GetIndexer(), kind: kind}, nil
}

// Claim returns the owner's revisions, oldest first, after adopting orphans that the selector matches. live reads the
// owner from the API server. What is returned is shared with the cache.
func (s *Store) Claim(ctx context.Context, of metav1.Object, selector labels.Selector, live func(context.Context) (metav1.Object, error)) ([]*appsv1.ControllerRevision, error) {
	found, err := owner.Candidates[*appsv1.ControllerRevision](s.revisions, of)
	if err != nil {
		return nil, err
	}
	claimer := owner.Claimer[*appsv1.ControllerRevision]{
		Owner: of, Kind: s.kind, Selector: selector, Live: live,
		Patch: func(ctx context.Context, revision *appsv1.ControllerRevision, patch []byte) error {
			_, err := s.of(revision).Patch(ctx, revision.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	claimed, err := claimer.Claim(ctx, found)
	Sort(claimed)
	return claimed, err
}

// Sort puts the oldest revision first.
func Sort(revisions []*appsv1.ControllerRevision) {
	slices.SortStableFunc(revisions, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(
			cmp.Compare(a.Revision, b.Revision),
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Name, b.Name),
		)
	})
}

// Create writes a new revision.
func (s *Store) Create(ctx context.Context, revision *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	return s.of(revision).Create(ctx, revision, metav1.CreateOptions{})
}

// Live reads a revision from the API server.
func (s *Store) Live(ctx context.Context, revision *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	return s.of(revision).Get(ctx, revision.Name, metav1.GetOptions{})
}

// Renumber gives a revision another number.
func (s *Store) Renumber(ctx context.Context, revision *appsv1.ControllerRevision, number int64) (*appsv1.ControllerRevision, error) {
	if revision.Revision == number {
		return revision, nil
	}
	changed := revision.DeepCopy()
	changed.Revision = number
	return s.Update(ctx, changed)
}

// Update writes a revision that was changed.
func (s *Store) Update(ctx context.Context, revision *appsv1.ControllerRevision) (*appsv1.ControllerRevision, error) {
	updated, err := s.of(revision).Update(ctx, revision, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update ControllerRevision %s: %w", revision.Name, err)
	}
	return updated, nil
}

// Delete deletes a revision.
func (s *Store) Delete(ctx context.Context, revision *appsv1.ControllerRevision) error {
	if err := s.of(revision).Delete(ctx, revision.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete ControllerRevision %s: %w", revision.Name, err)
	}
	return nil
}

func (s *Store) of(revision *appsv1.ControllerRevision) appsclient.ControllerRevisionInterface {
	return s.client.AppsV1().ControllerRevisions(revision.Namespace)
}

// Data is what a revision says about a template. Its bytes are those that upstream writes, so that templates are
// recognized by them whoever wrote the revision.
func Data(template *corev1.PodTemplateSpec) ([]byte, error) {
	encoded, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template returns the template that a revision brings back.
func Template(revision *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template *corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(revision.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("read ControllerRevision %s: %w", revision.Name, err)
	}
	if patch.Spec.Template == nil {
		return nil, fmt.Errorf("read ControllerRevision %s: there is no spec.template in it", revision.Name)
	}
	return patch.Spec.Template, nil
}
