// SPDX-License-Identifier: Apache-2.0

// Package volumeexpand grows the volumes of claims that ask for more storage than they have.
//
// It grows those that need nothing but new numbers: local-path's directories, which nothing limits. All others
// are for the resizer of their driver, and the claim is told so.
// Reference: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
package volumeexpand

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/controllers/localpath"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/internal/claimresize"
)

// Name is the controller's identity, Component its name in events.
const (
	Name      = "expand-controller"
	Component = "volume_expand"
)

// resizer is the annotation of a claim that says who grows its volume.
const resizer = "volume.kubernetes.io/storage-resizer"

type controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	claims corelisters.PersistentVolumeClaimLister
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder) (reconcile.Controller, error) {
	claims := factory.Core().V1().PersistentVolumeClaims()
	c := &controller{client: client, events: events, claims: claims.Lister()}
	return reconcile.Controller{
		Name:      "volume_expand",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{
			reconcile.On(claims.Informer(), func(q reconcile.Queue, old, new *corev1.PersistentVolumeClaim) {
				if new != nil && wantsMore(new) && (old == nil || !wantsMore(old) || requested(old).Cmp(*requested(new)) != 0) {
					q.Add(reconcile.KeyOf(new))
				}
			}),
		},
	}, nil
}

func requested(claim *corev1.PersistentVolumeClaim) *resource.Quantity {
	return claim.Spec.Resources.Requests.Storage()
}

// wantsMore tells whether a bound claim asks for more than it has.
func wantsMore(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Status.Phase == corev1.ClaimBound && requested(claim).Cmp(*claim.Status.Capacity.Storage()) > 0
}

// Reconcile grows the volume of a claim.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	claim, err := c.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && !wantsMore(claim) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	pv, err := c.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("read volume of claim: %w", err)
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return reconcile.Result{}, fmt.Errorf("persistent Volume is not bound to PVC being updated : %s", key)
	}
	if !localpath.Made(pv) {
		c.events.Event(claim, corev1.EventTypeWarning, "ExternalExpanding", "waiting for an external controller to expand this PVC")
		return reconcile.Result{}, nil
	}
	return reconcile.Result{}, c.expand(ctx, claim, pv)
}

// expand writes down that it begins, the volume's new size, and that it is done. It can be called again after each.
func (c *controller) expand(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	size := *requested(claim)
	claim = claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, resizer, localpath.Provisioner)
	claimresize.Begun(&claim.Status, size)
	claim, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("note that the volume grows: %w", err)
	}
	if pv.Spec.Capacity.Storage().Cmp(size) < 0 {
		pv.Spec.Capacity[corev1.ResourceStorage] = size
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update size of volume: %w", err)
		}
	}
	claimresize.Finished(&claim.Status, size)
	if _, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("note that the volume has grown: %w", err)
	}
	c.events.Eventf(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "ExpandVolume succeeded for volume %s", reconcile.KeyOf(claim))
	return nil
}
