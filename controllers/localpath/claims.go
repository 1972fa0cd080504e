// SPDX-License-Identifier: Apache-2.0

package localpath

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
	storagehelper "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// reconcileClaim makes the volume of a claim.
func (p *provisioner) reconcileClaim(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	claim, err := p.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && !asksUs(claim) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if _, err := p.volumes.Get(volumeName(claim)); !apierrors.IsNotFound(err) {
		return reconcile.Result{}, err // it is there; the binder has the next step
	}
	class, err := p.classes.Get(storagehelper.GetPersistentVolumeClaimClass(claim))
	if apierrors.IsNotFound(err) || err == nil && class.Provisioner != Provisioner {
		return reconcile.Result{}, nil // the claim is older than the class, and not ours
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if why := cannotServe(claim); why != "" {
		p.failed(claim, class, why)
		return reconcile.Result{}, nil // for good: a claim's spec does not change
	}
	node, err := p.node.Get(claim.Annotations[storagehelper.AnnSelectedNode])
	if apierrors.IsNotFound(err) {
		p.failed(claim, class, err.Error())
		return reconcile.Result{}, p.reschedule(ctx, claim)
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{}, p.provision(ctx, claim, class, node)
}

// cannotServe says why we can make no such volume, or nothing.
func cannotServe(claim *corev1.PersistentVolumeClaim) string {
	switch {
	case claim.Spec.Selector != nil:
		return "claim.Spec.Selector is not supported"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "claim.Spec.DataSource is not supported"
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return "only volumeMode Filesystem is supported"
	case claim.Annotations[storagehelper.AnnSelectedNode] == "":
		return "no node was selected: the StorageClass must have `volumeBindingMode: WaitForFirstConsumer`"
	}
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return "only the access modes ReadWriteOnce and ReadWriteOncePod are supported"
		}
	}
	return ""
}

func (p *provisioner) failed(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, why string) {
	p.events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %s", class.Name, why)
}

// reschedule asks the scheduler for another node.
func (p *provisioner) reschedule(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	claim = claim.DeepCopy()
	delete(claim.Annotations, storagehelper.AnnSelectedNode)
	if _, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("ask for another node: %w", err)
	}
	return nil
}

// provision makes the directory, then the object: a directory without an object is found again by its name.
func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) error {
	p.events.Eventf(claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", reconcile.KeyOf(claim))
	path, err := p.makeDirectory(ctx, node, volumeName(claim))
	if err != nil {
		p.failed(claim, class, err.Error())
		return fmt.Errorf("make directory on node %s: %w", node.Name, err)
	}
	pv, err := newVolume(claim, class, node, path)
	if err == nil {
		_, err = p.client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		p.failed(claim, class, err.Error())
		return fmt.Errorf("create volume: %w", err)
	}
	p.events.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", pv.Name)
	return nil
}

func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// newVolume is the volume of a directory of a node, promised to the claim.
func newVolume(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, path string) (*corev1.PersistentVolume, error) {
	ref, err := reference.GetReference(scheme.Scheme, claim)
	if err != nil {
		return nil, err
	}
	policy := ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        volumeName(claim),
			Annotations: map[string]string{storagehelper.AnnDynamicallyProvisioned: Provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			VolumeMode:                    claim.Spec.VolumeMode,
			ClaimRef:                      ref,
			PersistentVolumeReclaimPolicy: policy,
			StorageClassName:              class.Name,
			MountOptions:                  class.MountOptions,
			NodeAffinity:                  affinity(node),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
		},
	}
	if policy == corev1.PersistentVolumeReclaimDelete {
		pv.Finalizers = []string{storagehelper.PVDeletionProtectionFinalizer}
	}
	return pv, nil
}

func affinity(node *corev1.Node) *corev1.VolumeNodeAffinity {
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		host = node.Name
	}
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
	}}}}
}
