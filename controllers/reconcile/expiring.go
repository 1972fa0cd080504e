// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Expiring deletes objects when their time has come. A deletion names the version of the object that it was decided
// on: one that has changed since, or was made anew, is looked at again instead. So its watch is OnSelf, or like it.
type Expiring[T metav1.Object] struct {
	// Get reads an object from the cache.
	Get func(key types.NamespacedName) (T, error)
	// Due is when to delete an object; ends is false if it does not end that way, or not yet.
	Due func(obj T) (due time.Time, ends bool)
	// Delete deletes an object under these options, to which it may add.
	Delete func(ctx context.Context, obj T, options metav1.DeleteOptions) error
}

// Reconcile deletes an object that is due, or asks to see it again when it will be.
func (e Expiring[T]) Reconcile(ctx context.Context, key types.NamespacedName) (Result, error) {
	obj, err := e.Get(key)
	if apierrors.IsNotFound(err) {
		return Result{}, nil
	}
	if err != nil {
		return Result{}, err
	}
	due, ends := e.Due(obj)
	if !ends {
		return Result{}, nil
	}
	if left := time.Until(due); left > 0 {
		return Result{RequeueAfter: left}, nil
	}
	uid, version := obj.GetUID(), obj.GetResourceVersion()
	err = e.Delete(ctx, obj, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}})
	// NotFound: somebody else has deleted it. Conflict: it has changed, and that change queues it again.
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return Result{}, fmt.Errorf("delete what has expired: %w", err)
	}
	return Result{}, nil
}
