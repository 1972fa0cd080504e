// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/internal/claimresize"
	"github.com/skiff-k8s/skiff/kubelet/csi"
)

// expand lets the driver grow what is on a volume that has become larger than its claim says. It tells whether the
// volume may grow later, so that it has to be looked at again.
func (p *csiCall) expand(ctx context.Context, target string, capability *csipb.VolumeCapability) (may bool, err error) {
	if p.source.lifecycle != storagev1.VolumeLifecyclePersistent || p.source.readOnly || p.v.claim == nil {
		return false, nil
	}
	can, err := p.driver.Has(ctx, csipb.NodeServiceCapability_RPC_EXPAND_VOLUME)
	if err != nil || !can || !grown(p.v.claim, p.v.pv) {
		return can, err
	}
	size := p.v.pv.Spec.Capacity[corev1.ResourceStorage]
	secrets, err := p.secrets(ctx, p.v.pv.Spec.CSI.NodeExpandSecretRef, "NodeExpandSecretRef")
	if err != nil {
		return can, err
	}
	if err := p.setClaim(ctx, func(s *corev1.PersistentVolumeClaimStatus) {
		claimresize.SetState(s, corev1.PersistentVolumeClaimNodeResizeInProgress)
	}); err != nil {
		return can, err
	}
	calling, cancel := context.WithTimeout(ctx, csi.Timeout)
	defer cancel()
	_, err = p.driver.NodeExpandVolume(calling, &csipb.NodeExpandVolumeRequest{
		VolumeId: p.source.handle, VolumePath: target, StagingTargetPath: p.staging,
		CapacityRange: &csipb.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: capability, Secrets: secrets,
	})
	if err != nil {
		return can, p.notExpanded(ctx, err)
	}
	p.tell(corev1.EventTypeNormal, "FileSystemResizeSuccessful", fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q %s", p.v.pv.Name, p.m.cfg.NodeName))
	return can, p.setClaim(ctx, func(s *corev1.PersistentVolumeClaimStatus) { claimresize.Finished(s, size) })
}

// grown tells whether a volume is larger than its claim says, and the node has not given up on that.
func grown(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	return size.Cmp(claim.Status.Capacity[corev1.ResourceStorage]) > 0 &&
		claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] != corev1.PersistentVolumeClaimNodeResizeInfeasible
}

// notExpanded notes why a volume could not grow. The pod can have it as it is if growing is out of the question, or
// has to wait until nobody uses it.
func (p *csiCall) notExpanded(ctx context.Context, failure error) error {
	infeasible := false
	switch status.Code(failure) {
	case codes.FailedPrecondition:
		return nil
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		infeasible = true
	}
	p.tell(corev1.EventTypeWarning, "VolumeResizeFailed", fmt.Sprintf("NodeExpandVolume.NodeExpandVolume failed for volume %q : %v", p.v.pv.Name, failure))
	err := p.setClaim(ctx, func(s *corev1.PersistentVolumeClaimStatus) {
		if infeasible {
			claimresize.SetState(s, corev1.PersistentVolumeClaimNodeResizeInfeasible)
		}
		claimresize.Failed(s, corev1.PersistentVolumeClaimNodeResizeError, fmt.Sprintf("failed to expand pvc with %v", failure))
	})
	if err != nil || infeasible {
		return err
	}
	return failure
}

func (p *csiCall) setClaim(ctx context.Context, change func(*corev1.PersistentVolumeClaimStatus)) error {
	claim := p.v.claim.DeepCopy()
	change(&claim.Status)
	claim, err := p.m.cfg.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status of claim: %w", err)
	}
	p.v.claim = claim
	return nil
}

// tell sends an event about the pod.
func (p *csiCall) tell(kind, reason, message string) {
	if p.m.cfg.Event != nil {
		p.m.cfg.Event(p.v.pod, kind, reason, message)
	}
}
