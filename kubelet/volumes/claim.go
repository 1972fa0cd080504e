// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	storagehelper "k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// protection is the finalizer that keeps a deleted claim alive while pods use it.
const protection = "kubernetes.io/pvc-protection"

// resolve finds the PersistentVolume behind a volume that is a claim.
func (m *Manager) resolve(ctx context.Context, pod *corev1.Pod, source *corev1.Volume) (*volume, error) {
	v := &volume{pod: pod, source: source}
	var claim string
	switch {
	case source.PersistentVolumeClaim != nil:
		claim, v.readOnly = source.PersistentVolumeClaim.ClaimName, source.PersistentVolumeClaim.ReadOnly
	case source.Ephemeral != nil:
		claim = ephemeral.VolumeClaimName(pod, source)
	default:
		return v, nil
	}
	pvc, err := m.boundClaim(ctx, pod.Namespace, claim)
	if err == nil && source.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, pvc); err != nil {
			return nil, err
		}
	}
	if err == nil {
		v.claim = pvc
		v.pv, err = m.volumeOf(ctx, pvc)
	}
	if err != nil {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, claim, err)
	}
	if err := fitsUse(v); err != nil {
		return nil, err
	}
	node, err := m.cfg.Node()
	if err != nil {
		return nil, err
	}
	if err := storagehelper.CheckNodeAffinity(v.pv, node.Labels); err != nil {
		return nil, fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", v.pv.Name, err)
	}
	return v, nil
}

func (m *Manager) boundClaim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	pvc, err := m.cfg.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case pvc.DeletionTimestamp != nil && !slices.Contains(pvc.Finalizers, protection):
		return nil, errors.New("PVC is being deleted")
	case pvc.Status.Phase != corev1.ClaimBound:
		return nil, errors.New("PVC is not bound")
	case pvc.Spec.VolumeName == "":
		return nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	return pvc, nil
}

func (m *Manager) volumeOf(ctx context.Context, pvc *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	name := pvc.Spec.VolumeName
	pv, err := m.cfg.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", name, err)
	case pv.Spec.ClaimRef == nil:
		return nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", name)
	case pv.Spec.ClaimRef.UID != pvc.UID:
		return nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", name, pv.Spec.ClaimRef.UID, pvc.UID)
	}
	return pv, nil
}

// fitsUse refuses block volumes as mounts and file systems as devices.
func fitsUse(v *volume) error {
	block := isBlock(v.pv)
	for c := range podcontainers.All(v.pod) {
		for i := range c.VolumeMounts {
			if block && c.VolumeMounts[i].Name == v.source.Name {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", v.source.Name, corev1.PersistentVolumeBlock)
			}
		}
		for i := range c.VolumeDevices {
			if !block && c.VolumeDevices[i].Name == v.source.Name {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", v.source.Name, corev1.PersistentVolumeFilesystem)
			}
		}
	}
	return nil
}

// checkOnce refuses a volume that is for one pod, and for nothing else, and that another pod of this node has. What earlier processes have
// set up shows by its directory.
func (m *Manager) checkOnce(v *volume) error {
	if v.pv == nil || v.again || !slices.Equal(v.pv.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}) {
		return nil
	}
	dirs, err := filepath.Glob(filepath.Join(m.PodDir("*"), "volumes", filepath.Base(filepath.Dir(v.dir)), v.specName()))
	if err != nil {
		return err
	}
	if !m.othersHave(v) && !slices.ContainsFunc(dirs, func(dir string) bool { return dir != v.dir }) {
		return nil
	}
	err = errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
	if isBlock(v.pv) {
		return deviceError{err}
	}
	return err
}

func (m *Manager) othersHave(v *volume) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for pod, volumes := range m.pods {
		for _, other := range volumes {
			if pod != v.pod.UID && other.pv == v.pv.Name {
				return true
			}
		}
	}
	return false
}

func isBlock(pv *corev1.PersistentVolume) bool {
	return pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
}
