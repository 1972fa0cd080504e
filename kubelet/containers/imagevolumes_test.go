// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/component-base/metrics/testutil"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Only mounts of images count, and as failed only where the runtime says that it could not mount one.
func TestCountImageVolumes(t *testing.T) {
	r := &Runtime{metrics: metrics.New("n1")}
	mounts := []*runtimeapi.Mount{{HostPath: "/a"}, {Image: &runtimeapi.ImageSpec{Image: "i"}}}
	r.countImageVolumes(mounts, nil)
	r.countImageVolumes(mounts, grpcstatus.Error(codes.Unknown, "no space left on device"))
	r.countImageVolumes(mounts, grpcstatus.Error(codes.Unknown, "ImageVolumeMountFailed: no such image"))
	err := testutil.GatherAndCompare(r.metrics.All, strings.NewReader(`
# HELP kubelet_image_volume_mounted_errors_total [BETA] Number of failed image volume mounts.
# TYPE kubelet_image_volume_mounted_errors_total counter
kubelet_image_volume_mounted_errors_total 1
# HELP kubelet_image_volume_mounted_succeed_total [BETA] Number of successful image volume mounts.
# TYPE kubelet_image_volume_mounted_succeed_total counter
kubelet_image_volume_mounted_succeed_total 2
# HELP kubelet_image_volume_requested_total [BETA] Number of requested image volumes.
# TYPE kubelet_image_volume_requested_total counter
kubelet_image_volume_requested_total 3
`), "kubelet_image_volume_requested_total", "kubelet_image_volume_mounted_succeed_total", "kubelet_image_volume_mounted_errors_total")
	if err != nil {
		t.Error(err)
	}
}
