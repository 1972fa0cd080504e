// SPDX-License-Identifier: Apache-2.0

package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	storagehelper "k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// reconcileVolume says what phase a volume is in, and lets go of one whose claim is gone or has another volume.
func (b *binder) reconcileVolume(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	pv, err := b.volumes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		b.operations.result(key.Name, nil)
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	var claim *corev1.PersistentVolumeClaim
	if ref := pv.Spec.ClaimRef; ref != nil && ref.UID != "" {
		if claim, err = b.claimant(ctx, pv); err != nil {
			return reconcile.Result{}, err
		}
	}
	switch decideVolume(pv, claim) {
	case available:
		_, err = b.setPhase(ctx, pv, corev1.VolumeAvailable)
	case bound:
		_, err = b.setPhase(ctx, pv, corev1.VolumeBound)
	case mismatched:
		b.tellMismatch(pv, claim)
	case unbind:
		err = b.unbindVolume(ctx, pv)
	case release:
		err = b.release(ctx, pv)
	case wait:
	}
	return reconcile.Result{}, err
}

// claimant returns the claim that a volume is bound to, or nil if that is gone. Before a volume is let go of, the
// API is asked: the claim may be newer than the cache.
func (b *binder) claimant(ctx context.Context, pv *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	key, uid := claimOf(pv), pv.Spec.ClaimRef.UID
	claim, err := b.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if err == nil && claim.UID == uid {
		return claim, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	if given(pv) {
		return nil, nil
	}
	claim, err = b.client.CoreV1().PersistentVolumeClaims(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && claim.UID != uid {
		return nil, nil
	}
	return claim, err
}

// given says that a volume was let go of before.
func given(pv *corev1.PersistentVolume) bool {
	return pv.Status.Phase == corev1.VolumeReleased || pv.Status.Phase == corev1.VolumeFailed
}

// fate is what becomes of a volume.
type fate int

const (
	wait       fate = iota // the claims' controller has the next step
	available              // nobody has it yet, though it may be promised to a claim
	bound                  // its claim has it
	mismatched             // a claim that does not fit was promised to it
	unbind                 // its claim has another volume: it is for the next one
	release                // its claim is gone
)

// decideVolume says what becomes of pv. claim is the one that it is bound to, or nil if that is gone.
func decideVolume(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) fate {
	switch {
	case pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "":
		return available
	case claim == nil:
		return release
	case claim.Spec.VolumeName == pv.Name:
		return bound
	case claim.Spec.VolumeName != "":
		_, provisioned := pv.Annotations[storagehelper.AnnDynamicallyProvisioned]
		if provisioned && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
			return release // it was made for a claim that did not need it after all
		}
		return unbind
	case storagehelper.CheckVolumeModeMismatches(&claim.Spec, &pv.Spec):
		return mismatched
	}
	return wait
}

func (b *binder) tellMismatch(pv *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) {
	b.events.Eventf(pv, corev1.EventTypeWarning, "VolumeMismatch",
		"Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)
	b.events.Eventf(claim, corev1.EventTypeWarning, "VolumeMismatch",
		"Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", pv.Name)
}

// release lets go of a volume and does what its reclaim policy says. An earlier failure stays visible.
func (b *binder) release(ctx context.Context, pv *corev1.PersistentVolume) error {
	if !given(pv) {
		var err error
		if pv, err = b.setPhase(ctx, pv, corev1.VolumeReleased); err != nil {
			return err
		}
	}
	reason, message := cannotReclaim(pv)
	if pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		b.operations.begin(pv.Name, b.deleterOf(pv, reason), deletion)
	}
	switch {
	case reason != "":
		return b.fail(ctx, pv, reason, message)
	case ownDeletion(pv):
		return b.delete(ctx, pv)
	}
	return nil
}

// ownDeletion tells whether a volume is deleted here: a directory of this machine, for tests and single nodes, that nobody has provisioned.
func ownDeletion(pv *corev1.PersistentVolume) bool {
	return pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && pv.Spec.HostPath != nil &&
		pv.Annotations[storagehelper.AnnDynamicallyProvisioned] == "" && pv.Annotations[storagehelper.AnnMigratedTo] == ""
}

// temporary is where volumes of hostPath are deleted, and nowhere else.
const temporary = "/tmp"

// delete removes a directory below /tmp, and no other by links in there, and then the volume.
func (b *binder) delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	root, err := os.OpenRoot(temporary)
	if err == nil {
		defer root.Close()
		var below string
		if below, err = filepath.Rel(temporary, pv.Spec.HostPath.Path); err == nil {
			err = root.RemoveAll(below)
		}
	}
	if err != nil {
		return errors.Join(b.fail(ctx, pv, "VolumeFailedDelete", err.Error()), fmt.Errorf("delete directory of volume: %w", err))
	}
	err = b.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pv.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volume: %w", err)
	}
	return nil
}

// isTemporary tells whether a path lies below /tmp.
func isTemporary(path string) bool { return strings.HasPrefix(filepath.Clean(path), temporary+"/") }

// deleterOf is what metrics call who deletes a volume: its class's provisioner. What the volume says itself has no bounds.
func (b *binder) deleterOf(pv *corev1.PersistentVolume, cannot string) string {
	if ownDeletion(pv) && cannot == "" {
		return "kubernetes.io/host-path"
	}
	class, err := b.classes.Get(storagehelper.GetPersistentVolumeClass(pv))
	if cannot != "" || err != nil {
		return ""
	}
	return class.Provisioner
}

// cannotReclaim says why a volume cannot be deleted or recycled, if that is asked for and nobody will do it.
// What a provisioner has made, it deletes; a CSI driver's volumes have one too.
func cannotReclaim(pv *corev1.PersistentVolume) (reason, message string) {
	switch pv.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return "", ""
	case corev1.PersistentVolumeReclaimRecycle:
		return "VolumeFailedRecycle", "No recycler plugin found for the volume!"
	case corev1.PersistentVolumeReclaimDelete:
	default:
		return "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy"
	}
	_, migrated := pv.Annotations[storagehelper.AnnMigratedTo]
	provisioner := pv.Annotations[storagehelper.AnnDynamicallyProvisioned]
	switch {
	case migrated, pv.Spec.CSI != nil:
		return "", ""
	case strings.HasPrefix(provisioner, inTree):
		return "VolumeFailedDelete", "no volume plugin matched name: " + provisioner
	case provisioner != "":
		return "", ""
	case pv.Spec.HostPath != nil && isTemporary(pv.Spec.HostPath.Path):
		return "", ""
	case pv.Spec.HostPath != nil:
		return "VolumeFailedDelete", "host_path deleter only supports /tmp/.+ but received provided " + pv.Spec.HostPath.Path
	}
	return "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", pv.Name)
}

// fail marks a volume as Failed, and says why when that is news.
func (b *binder) fail(ctx context.Context, pv *corev1.PersistentVolume, reason, message string) error {
	if pv.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	pv = pv.DeepCopy()
	pv.Status.Message = message
	pv, err := b.setPhase(ctx, pv, corev1.VolumeFailed)
	if err == nil {
		b.operations.result(pv.Name, errors.New(message))
		b.events.Event(pv, corev1.EventTypeWarning, reason, message)
	}
	return err
}

// unbindVolume takes back what binding wrote. A volume that a person promised to a claim stays promised.
func (b *binder) unbindVolume(ctx context.Context, pv *corev1.PersistentVolume) error {
	pv = pv.DeepCopy()
	if _, ours := pv.Annotations[storagehelper.AnnBoundByController]; ours {
		pv.Spec.ClaimRef = nil
		delete(pv.Annotations, storagehelper.AnnBoundByController)
	} else {
		pv.Spec.ClaimRef.UID = ""
	}
	pv, err := b.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("unbind volume: %w", err)
	}
	_, err = b.setPhase(ctx, pv, corev1.VolumeAvailable)
	return err
}

// setPhase writes a volume's phase. The message is that of a failure, and goes with it.
func (b *binder) setPhase(ctx context.Context, pv *corev1.PersistentVolume, phase corev1.PersistentVolumePhase) (*corev1.PersistentVolume, error) {
	if pv.Status.Phase == phase {
		return pv, nil
	}
	changed := pv.DeepCopy()
	changed.Status.Phase = phase
	if phase != corev1.VolumeFailed {
		changed.Status.Message = ""
	}
	changed, err := b.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return pv, fmt.Errorf("update status of volume: %w", err)
	}
	return changed, nil
}
