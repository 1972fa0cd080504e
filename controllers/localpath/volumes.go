// SPDX-License-Identifier: Apache-2.0

package localpath

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	storagehelper "k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// duty is what is due for a volume.
type duty int

const (
	nothing   duty = iota
	remove         // the directory, and then the object
	unprotect      // the object is to be deleted without its directory
)

// due says what has to be done about a volume. Its directory goes only with the policy Delete, and only when the
// volume was let go of: then no pod can have it.
func due(pv *corev1.PersistentVolume) duty {
	if !Made(pv) {
		return nothing
	}
	protected := slices.Contains(pv.Finalizers, storagehelper.PVDeletionProtectionFinalizer)
	released := pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed
	switch {
	case pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		if protected {
			return unprotect
		}
	case released && (pv.DeletionTimestamp == nil || protected):
		return remove
	}
	return nothing
}

// reconcileVolume takes away a volume that was let go of.
func (p *provisioner) reconcileVolume(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pv, err := p.volumes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	switch due(pv) {
	case remove:
		err = p.remove(ctx, pv)
	case unprotect:
		err = p.unprotect(ctx, pv)
	case nothing:
	}
	return reconcile.Result{}, err
}

func (p *provisioner) remove(ctx context.Context, pv *corev1.PersistentVolume) error {
	// What is done cannot be undone, so the cache is not believed.
	pv, err := p.client.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && due(pv) != remove {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	node, err := p.nodeOf(pv)
	if err != nil {
		return err
	}
	if node != nil { // a directory on a node that is no more is out of reach
		if err := p.removeDirectory(ctx, node, pv.Name); err != nil {
			p.events.Event(pv, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
			return fmt.Errorf("remove directory on node %s: %w", node.Name, err)
		}
	}
	err = p.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pv.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volume: %w", err)
	}
	return p.unprotect(ctx, pv)
}

// unprotect takes our finalizer off a volume.
func (p *provisioner) unprotect(ctx context.Context, pv *corev1.PersistentVolume) error {
	pv, err := p.client.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !slices.Contains(pv.Finalizers, storagehelper.PVDeletionProtectionFinalizer) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	pv.Finalizers = slices.DeleteFunc(pv.Finalizers, func(f string) bool { return f == storagehelper.PVDeletionProtectionFinalizer })
	_, err = p.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take finalizer off volume: %w", err)
	}
	return nil
}

// nodeOf returns the node that a volume's directory is on, or nil if there is no such node.
func (p *provisioner) nodeOf(pv *corev1.PersistentVolume) (*corev1.Node, error) {
	nodes, err := p.node.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	for _, node := range nodes {
		if storagehelper.CheckNodeAffinity(pv, node.Labels) == nil {
			return node, nil
		}
	}
	return nil, nil
}
