// SPDX-License-Identifier: Apache-2.0

// Package pvcprotection keeps a deleted PersistentVolumeClaim until no pod uses it any more, and notes on each claim
// since when nobody has.
//
// Admission gives each new claim a finalizer; this controller takes it away, and gives it to claims that lack it.
// Before it takes it away it asks the API for the namespace's pods: one that has just been bound to a node may not
// be in the cache yet.
// Reference: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection
package pvcprotection

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/skiff-k8s/skiff/controllers/podcontrol"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "pvc-protection-controller"

const finalizer = "kubernetes.io/pvc-protection"

type controller struct {
	client kubernetes.Interface
	claims corelisters.PersistentVolumeClaimLister
	pods   cache.Indexer
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) (reconcile.Controller, error) {
	claims, pods := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().Pods().Informer()
	if err := podcontrol.IndexByClaim(pods); err != nil {
		return reconcile.Controller{}, err
	}
	c := &controller{client: client, claims: claims.Lister(), pods: pods.GetIndexer()}
	return reconcile.Controller{
		Name:      "pvcprotection",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.OnSelf[*corev1.PersistentVolumeClaim](claims.Informer()),
			reconcile.On(pods, func(q reconcile.Queue, old, new *corev1.Pod) {
				if old != nil && new != nil && usageOf(old) == usageOf(new) {
					return
				}
				pod := new
				if pod == nil {
					pod = old
				}
				for claim := range podcontrol.Claims(pod) {
					q.Add(claim)
				}
			}),
		},
	}, nil
}

// usage is what of a pod decides whether it uses its claims.
type usage struct{ bound, ended, shutDown bool }

func usageOf(pod *corev1.Pod) usage {
	return usage{
		bound:    pod.Spec.NodeName != "",
		ended:    pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
		shutDown: pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0,
	}
}

// Reconcile does what is due for one claim.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	claim, err := c.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	protected := slices.Contains(claim.Finalizers, finalizer)
	switch {
	case claim.DeletionTimestamp != nil && protected:
		return reconcile.Result{}, c.letGo(ctx, claim)
	case claim.DeletionTimestamp != nil:
		return reconcile.Result{}, nil
	case !protected:
		return reconcile.Result{}, c.setFinalizers(ctx, claim, append(slices.Clone(claim.Finalizers), finalizer))
	}
	return reconcile.Result{}, c.noteUse(ctx, claim)
}

// letGo removes the finalizer if no pod on a node uses the claim.
func (c *controller) letGo(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	used, err := c.used(ctx, claim, holds)
	if err != nil || used {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(claim.Finalizers), func(f string) bool { return f == finalizer })
	return c.setFinalizers(ctx, claim, rest)
}

func (c *controller) setFinalizers(ctx context.Context, claim *corev1.PersistentVolumeClaim, finalizers []string) error {
	claim = claim.DeepCopy()
	claim.Finalizers = finalizers
	_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update finalizers of claim: %w", err)
	}
	return nil
}

// used tells whether a pod uses the claim, as uses understands it. The cache can only say that one does.
func (c *controller) used(ctx context.Context, claim *corev1.PersistentVolumeClaim, uses func(*corev1.Pod, *corev1.PersistentVolumeClaim) bool) (bool, error) {
	cached, err := podcontrol.ByClaim(c.pods, reconcile.KeyOf(claim))
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(cached, func(pod *corev1.Pod) bool { return uses(pod, claim) }) {
		return true, nil
	}
	live, err := c.client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	return slices.ContainsFunc(live.Items, func(pod corev1.Pod) bool { return uses(&pod, claim) }), nil
}

// holds tells whether a pod keeps a deleted claim: it is on a node, where it may have the volume.
func holds(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return pod.Spec.NodeName != "" && refersTo(pod, claim, !usageOf(pod).shutDown)
}

// refers tells whether a pod that has not ended names the claim.
func refers(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return !usageOf(pod).ended && refersTo(pod, claim, true)
}

// refersTo tells whether a volume of the pod is the claim. One that was made for the pod counts if ownToo is set.
func refersTo(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim, ownToo bool) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		if v.PersistentVolumeClaim != nil {
			return v.PersistentVolumeClaim.ClaimName == claim.Name
		}
		return ownToo && v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, &v) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) == nil
	})
}

// noteUse keeps the condition that says since when a bound claim has not been used.
func (c *controller) noteUse(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Status.Phase != corev1.ClaimBound {
		return nil
	}
	pods, err := podcontrol.ByClaim(c.pods, reconcile.KeyOf(claim))
	if err != nil {
		return err
	}
	inUse := slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return refers(pod, claim) })
	i := slices.IndexFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimUnused
	})
	says := func(want corev1.PersistentVolumeClaimCondition) bool {
		return i >= 0 && claim.Status.Conditions[i].Status == want.Status
	}
	if says(unused(!inUse)) {
		return nil
	}
	if !inUse { // as far as the cache knows
		if inUse, err = c.used(ctx, claim, refers); err != nil {
			return err
		}
	}
	want := unused(!inUse)
	if says(want) {
		return nil
	}
	claim = claim.DeepCopy()
	if i < 0 {
		claim.Status.Conditions = append(claim.Status.Conditions, want)
	} else {
		claim.Status.Conditions[i] = want
	}
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update status of claim: %w", err)
	}
	return nil
}

func unused(yes bool) corev1.PersistentVolumeClaimCondition {
	condition := corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimUnused, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now(),
		Reason: "PodUsingPVC", Message: "A pod is currently referencing this PVC",
	}
	if yes {
		condition.Status, condition.Reason, condition.Message = corev1.ConditionTrue, "NoPodsUsingPVC", "No pods are currently referencing this PVC"
	}
	return condition
}
