// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skiff-k8s/skiff/internal/claimresize"
)

// grow has what is on a volume made as large as the volume, if whoever made that larger has left it to the node, and says in the
// claim how far it is. fill does it.
func (m *Manager) grow(ctx context.Context, v *volume, fill func(ctx context.Context, size resource.Quantity) error) error {
	size := v.pv.Spec.Capacity[corev1.ResourceStorage]
	if grownElsewhere(v, size) {
		if err := fill(ctx, size); err != nil {
			return err
		}
		m.tellGrown(v)
		return nil
	}
	if !leftToNode(v.claim) {
		return nil
	}
	if err := m.setClaim(ctx, v, func(s *corev1.PersistentVolumeClaimStatus) {
		claimresize.SetState(s, corev1.PersistentVolumeClaimNodeResizeInProgress)
	}); err != nil {
		return err
	}
	if err := fill(ctx, size); err != nil {
		return m.notGrown(ctx, v, err)
	}
	m.tellGrown(v)
	return m.setClaim(ctx, v, func(s *corev1.PersistentVolumeClaimStatus) { claimresize.Finished(s, size) })
}

// leftToNode tells whether the next step of a claim's growth is the node's. A volume may be larger than the claim says before that: then
// its controller is not done.
func leftToNode(claim *corev1.PersistentVolumeClaim) bool {
	switch claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] {
	case corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress:
		return true
	}
	return false
}

// notOnNodes is what a resizer writes at a claim when nothing is to be done on nodes.
const notOnNodes = "volume.kubernetes.io/node-expansion-not-required"

// grownElsewhere tells whether a volume that several nodes have is done with as far as its claim tells, and another node has done its part,
// while this one still has it as large as it was.
func grownElsewhere(v *volume, size resource.Quantity) bool {
	claim := v.claim
	_, pending := claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
	return v.again && size.Cmp(v.had) > 0 && !pending && size.Cmp(claim.Status.Capacity[corev1.ResourceStorage]) <= 0 &&
		slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany) && !metav1.HasAnnotation(claim.ObjectMeta, notOnNodes)
}

// notGrown notes why a volume could not grow. The pod can have it as it is if growing is out of the question, or
// has to wait until nobody uses it.
func (m *Manager) notGrown(ctx context.Context, v *volume, failure error) error {
	infeasible := false
	switch status.Code(failure) {
	case codes.FailedPrecondition:
		return nil
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		infeasible = true
	}
	m.tell(v.pod, corev1.EventTypeWarning, "VolumeResizeFailed", fmt.Sprintf("NodeExpandVolume.NodeExpandVolume failed for volume %q : %v", v.pv.Name, failure))
	err := m.setClaim(ctx, v, func(s *corev1.PersistentVolumeClaimStatus) {
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

func (m *Manager) setClaim(ctx context.Context, v *volume, change func(*corev1.PersistentVolumeClaimStatus)) error {
	claim := v.claim.DeepCopy()
	change(&claim.Status)
	claim, err := m.cfg.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update status of claim: %w", err)
	}
	v.claim = claim
	return nil
}

func (m *Manager) tellGrown(v *volume) {
	message := fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q %s", v.pv.Name, m.cfg.NodeName)
	m.tell(v.pod, corev1.EventTypeNormal, "FileSystemResizeSuccessful", message)
	m.tell(v.claim, corev1.EventTypeNormal, "FileSystemResizeSuccessful", message)
}

func (m *Manager) tell(about runtime.Object, kind, reason, message string) {
	if m.cfg.Event != nil {
		m.cfg.Event(about, kind, reason, message)
	}
}
