// SPDX-License-Identifier: Apache-2.0

// Package pvprotection keeps a deleted PersistentVolume until it is no longer bound to a claim.
//
// Admission gives each new volume a finalizer; this controller takes it away, and gives it to volumes that lack it.
// Reference: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection
package pvprotection

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

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity.
const Name = "pv-protection-controller"

const finalizer = "kubernetes.io/pv-protection"

type controller struct {
	client  kubernetes.Interface
	volumes corelisters.PersistentVolumeLister
}

// New returns the controller.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory) reconcile.Controller {
	volumes := factory.Core().V1().PersistentVolumes()
	c := &controller{client: client, volumes: volumes.Lister()}
	return reconcile.Controller{
		Name:      "pvprotection",
		Reconcile: c.Reconcile,
		Watches: []reconcile.Watch{reconcile.On(volumes.Informer(), func(q reconcile.Queue, _, new *corev1.PersistentVolume) {
			if new != nil && next(new) != nil {
				q.Add(reconcile.KeyOf(new))
			}
		})},
	}
}

// Reconcile gives the finalizer to a volume, or takes it away.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pv, err := c.volumes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	finalizers := next(pv)
	if finalizers == nil {
		return reconcile.Result{}, nil
	}
	pv = pv.DeepCopy()
	pv.Finalizers = finalizers
	_, err = c.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("update finalizers of volume: %w", err)
	}
	return reconcile.Result{}, nil
}

// next is what the volume's finalizers should be, or nil if they are right.
func next(pv *corev1.PersistentVolume) []string {
	protected := slices.Contains(pv.Finalizers, finalizer)
	switch {
	case pv.DeletionTimestamp == nil && !protected:
		return append(slices.Clone(pv.Finalizers), finalizer)
	case pv.DeletionTimestamp != nil && protected && pv.Status.Phase != corev1.VolumeBound:
		return slices.DeleteFunc(slices.Clone(pv.Finalizers), func(f string) bool { return f == finalizer })
	}
	return nil
}
