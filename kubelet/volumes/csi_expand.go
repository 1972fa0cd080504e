// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-k8s/skiff/kubelet/csi"
)

// expand lets the driver grow what is on a volume. It tells whether the volume may grow later, so that it has to be looked at again.
func (p *csiCall) expand(ctx context.Context, target string, capability *csipb.VolumeCapability) (may bool, err error) {
	if p.source.lifecycle != storagev1.VolumeLifecyclePersistent || p.source.readOnly || p.v.claim == nil {
		return false, nil
	}
	can, err := p.driver.Has(ctx, csipb.NodeServiceCapability_RPC_EXPAND_VOLUME)
	if err != nil || !can {
		return can, err
	}
	return can, p.m.grow(ctx, p.v, func(ctx context.Context, size resource.Quantity) error {
		secrets, err := p.secrets(ctx, p.v.pv.Spec.CSI.NodeExpandSecretRef, "NodeExpandSecretRef")
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, csi.Timeout)
		defer cancel()
		_, err = p.driver.NodeExpandVolume(ctx, &csipb.NodeExpandVolumeRequest{
			VolumeId: p.source.handle, VolumePath: target, StagingTargetPath: p.staging,
			CapacityRange: &csipb.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: capability, Secrets: secrets,
		})
		return err
	})
}
