// SPDX-License-Identifier: Apache-2.0

// Package owner decides which objects a controller owns: it adopts orphans that its selector
// matches and releases what it owns and no longer matches, by the controller reference.
//
// Reference: https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/
package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// Claimer claims objects of type T for one controller object.
type Claimer[T metav1.Object] struct {
	Owner    metav1.Object
	Kind     schema.GroupVersionKind // of Owner
	Selector labels.Selector
	// Match, if set, must hold of an object besides the selector.
	Match func(obj T) bool
	// Live reads the owner from the API server. It is asked, at most once, before the first adoption:
	// an owner that is being deleted must not adopt, and the cache may not know yet.
	Live func(ctx context.Context) (metav1.Object, error)
	// Patch applies a strategic merge patch to an object.
	Patch func(ctx context.Context, obj T, patch []byte) error
	// Finalizers are added on adoption and removed on release.
	Finalizers []string
}

// Claim returns those of the objects that the owner owns after orphans were adopted and strangers released.
// The error is not nil if some of that did not work; what is returned is right anyway.
func (c *Claimer[T]) Claim(ctx context.Context, objs []T) ([]T, error) {
	var claimed []T
	var errs []error
	mayAdopt := c.mayAdoptOnce()
	for _, obj := range objs {
		var err error
		owned := false
		switch c.decide(obj) {
		case keep:
			owned = true
		case adopt:
			if err = mayAdopt(ctx); err == nil {
				err = c.adopt(ctx, obj)
			}
			owned = err == nil
		case release:
			err = c.release(ctx, obj)
		}
		switch {
		case owned:
			claimed = append(claimed, obj)
		case err != nil && !apierrors.IsNotFound(err):
			errs = append(errs, err)
		}
	}
	return claimed, errors.Join(errs...)
}

type decision int

const (
	ignore decision = iota
	keep
	adopt
	release
)

func (c *Claimer[T]) decide(obj T) decision {
	matches := c.Selector.Matches(labels.Set(obj.GetLabels())) && (c.Match == nil || c.Match(obj))
	ref := metav1.GetControllerOfNoCopy(obj)
	ownerLives := c.Owner.GetDeletionTimestamp() == nil
	switch {
	case ref != nil && ref.UID != c.Owner.GetUID():
		return ignore
	case ref != nil && matches:
		return keep
	case ref != nil && ownerLives:
		return release
	case ref != nil:
		return ignore
	case !matches || !ownerLives || obj.GetDeletionTimestamp() != nil:
		return ignore
	case obj.GetNamespace() != c.Owner.GetNamespace():
		return ignore
	}
	return adopt
}

func (c *Claimer[T]) mayAdoptOnce() func(ctx context.Context) error {
	asked := false
	var answer error
	return func(ctx context.Context) error {
		if !asked {
			asked, answer = true, c.mayAdopt(ctx)
		}
		return answer
	}
}

func (c *Claimer[T]) mayAdopt(ctx context.Context) error {
	name := fmt.Sprintf("%s %s/%s", c.Kind.Kind, c.Owner.GetNamespace(), c.Owner.GetName())
	live, err := c.Live(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("look at %s before adopting: %w", name, err)
	case live.GetUID() != c.Owner.GetUID():
		return fmt.Errorf("original %s is gone: got uid %s, wanted %s", name, live.GetUID(), c.Owner.GetUID())
	case live.GetDeletionTimestamp() != nil:
		return fmt.Errorf("%s has just been deleted at %v", name, live.GetDeletionTimestamp())
	}
	return nil
}

func (c *Claimer[T]) adopt(ctx context.Context, obj T) error {
	patch, err := json.Marshal(map[string]any{"metadata": metadataPatch{
		UID:             obj.GetUID(),
		OwnerReferences: []any{metav1.NewControllerRef(c.Owner, c.Kind)},
		Finalizers:      c.Finalizers,
	}})
	if err != nil {
		return err
	}
	if err := c.Patch(ctx, obj, patch); err != nil {
		return fmt.Errorf("adopt %s/%s: %w", obj.GetNamespace(), obj.GetName(), err)
	}
	return nil
}

func (c *Claimer[T]) release(ctx context.Context, obj T) error {
	patch, err := ReleasePatch(obj.GetUID(), []types.UID{c.Owner.GetUID()}, c.Finalizers...)
	if err != nil {
		return err
	}
	err = c.Patch(ctx, obj, patch)
	// Gone, or recreated under the same name, or without owners: released all the same.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
		return fmt.Errorf("release %s/%s: %w", obj.GetNamespace(), obj.GetName(), err)
	}
	return nil
}

// metadataPatch is a strategic merge patch of metadata. The UID in it makes sure that the patch
// does not hit another object of the same name.
type metadataPatch struct {
	UID              types.UID `json:"uid"`
	OwnerReferences  []any     `json:"ownerReferences,omitempty"`
	Finalizers       []string  `json:"finalizers,omitempty"`
	DeleteFinalizers []string  `json:"$deleteFromPrimitiveList/finalizers,omitempty"`
}

// ReleasePatch is the strategic merge patch that removes owners and finalizers from the object with this UID.
func ReleasePatch(uid types.UID, owners []types.UID, finalizers ...string) ([]byte, error) {
	patch := metadataPatch{UID: uid, DeleteFinalizers: finalizers}
	for _, owner := range owners {
		patch.OwnerReferences = append(patch.OwnerReferences, map[string]string{"$patch": "delete", "uid": string(owner)})
	}
	return json.Marshal(map[string]any{"metadata": patch})
}
