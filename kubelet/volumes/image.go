// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// image is a volume that the runtime mounts from an image.
type image struct{ m *Manager }

func (image) name() string { return "kubernetes.io/image" }

func (image) supports(v *volume) bool { return v.source.Image != nil }

func (i image) setUp(ctx context.Context, v *volume) (mounted, error) {
	spec := &runtimeapi.ImageSpec{Image: v.source.Image.Reference, UserSpecifiedImage: v.source.Image.Reference}
	if i.m.cfg.EnsureImage != nil {
		var err error
		if spec, err = i.m.cfg.EnsureImage(ctx, v.pod, v.source.Image); err != nil {
			return mounted{}, err
		}
	}
	return mounted{image: spec, readOnly: true}, nil
}
