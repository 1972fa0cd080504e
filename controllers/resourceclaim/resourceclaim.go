// SPDX-License-Identifier: Apache-2.0

// Package resourceclaim keeps ResourceClaims in line with the pods that use them.
//
// pods.go makes the claims that pods have templates for and writes their names into the pod's status, and reserves claims
// for pods that no scheduler placed. This file takes pods out of status.reservedFor that are gone or done; with the last of
// them the claim gives its devices back, and a claim that was made for a pod that will not run any more goes altogether.
//
// It never allocates: that is the scheduler's part.
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
package resourceclaim

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity, Component the source of its events.
const (
	Name      = "resource-claim-controller"
	Component = "resource_claim"
)

type controller struct {
	client kubernetes.Interface
	claims resourcelisters.ResourceClaimLister
	pods   corelisters.PodLister
}

// New returns the controller of claims.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	claims, pods := factory.Resource().V1().ResourceClaims(), factory.Core().V1().Pods()
	c := &controller{client: client, claims: claims.Lister(), pods: pods.Lister()}
	return reconcile.Controller{
		Name:      "resource_claim",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*resourcev1.ResourceClaim](claims.Informer()),
			reconcile.On(pods.Informer(), podChanged),
		},
	}
}

// podChanged queues the claims of a pod that has come to its end.
func podChanged(q reconcile.Queue, old, now *corev1.Pod) {
	if now != nil && (!done(now) || old != nil && done(old)) {
		return
	}
	pod := cmp.Or(now, old)
	for name := range resourceclaim.PodClaims(pod) { // with the one that the scheduler makes for extended resources
		q.Add(types.NamespacedName{Namespace: pod.Namespace, Name: name})
	}
}

// done says whether the pod needs its claims no longer, or never will.
func done(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

// Reconcile brings the reservations of a claim up to date, and what follows from them.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	claim, err := c.claims.ResourceClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	users, err := c.users(ctx, claim)
	if err != nil {
		return reconcile.Result{}, err
	}
	if claim, err = c.release(ctx, claim, users); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			err = nil // that change queues it again
		}
		return reconcile.Result{}, err
	}
	if len(users) > 0 || claim.DeletionTimestamp != nil || !c.superfluous(claim) {
		return reconcile.Result{}, nil
	}
	err = c.client.ResourceV1().ResourceClaims(claim.Namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return reconcile.Result{}, fmt.Errorf("delete the claim of an ended pod: %w", err)
	}
	return reconcile.Result{}, nil
}

// users are those for whom the claim is still reserved. Who is no pod is kept: nothing is known about it.
func (c *controller) users(ctx context.Context, claim *resourcev1.ResourceClaim) ([]resourcev1.ResourceClaimConsumerReference, error) {
	var users []resourcev1.ResourceClaimConsumerReference
	for _, user := range claim.Status.ReservedFor {
		if user.APIGroup == "" && user.Resource == "pods" {
			uses, err := c.uses(ctx, claim.Namespace, user)
			if err != nil {
				return nil, err
			}
			if !uses {
				continue
			}
		}
		users = append(users, user)
	}
	return users, nil
}

// uses says whether the pod is still there and not done. One that the informer does not show may only be new.
func (c *controller) uses(ctx context.Context, namespace string, user resourcev1.ResourceClaimConsumerReference) (bool, error) {
	pod, err := c.pods.Pods(namespace).Get(user.Name)
	if apierrors.IsNotFound(err) {
		pod, err = c.client.CoreV1().Pods(namespace).Get(ctx, user.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("get Pod %s: %w", user.Name, err)
	}
	return pod.UID == user.UID && !done(pod), nil
}

// release writes who uses the claim. When the last user has gone, or the claim is to be deleted without one, its devices are given
// back and nothing keeps it any longer. A claim that nobody has used yet keeps what it was allocated.
func (c *controller) release(ctx context.Context, claim *resourcev1.ResourceClaim, users []resourcev1.ResourceClaimConsumerReference) (*resourcev1.ResourceClaim, error) {
	api := c.client.ResourceV1().ResourceClaims(claim.Namespace)
	left := len(users) < len(claim.Status.ReservedFor)
	unused := len(users) == 0 && (left || claim.DeletionTimestamp != nil) && slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	if !left && !unused {
		return claim, nil
	}
	claim = claim.DeepCopy()
	if left || claim.Status.Allocation != nil {
		claim.Status.ReservedFor = users
		if unused {
			claim.Status.Allocation = nil
		}
		updated, err := api.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("update the reservations of the claim: %w", err)
		}
		claim = updated
	}
	if !unused {
		return claim, nil
	}
	claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
	updated, err := api.Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("remove the finalizer of the claim: %w", err)
	}
	return updated, nil
}

// superfluous says whether the claim was made for a pod that will not run any more. The claims of pods that are gone are the garbage
// collector's.
func (c *controller) superfluous(claim *resourcev1.ResourceClaim) bool {
	owner := metav1.GetControllerOf(claim)
	if owner == nil || owner.APIVersion != "v1" || owner.Kind != "Pod" {
		return false
	}
	pod, err := c.pods.Pods(claim.Namespace).Get(owner.Name)
	return err == nil && (pod.UID != owner.UID || done(pod))
}
