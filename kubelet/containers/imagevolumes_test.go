// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/testutil"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// All images of the pod count for each of its containers, as failed where the runtime says that it could not mount one.
func TestCountImageVolumes(t *testing.T) {
	r := &Runtime{metrics: metrics.New("n1")}
	pod := &v1.Pod{Spec: v1.PodSpec{Volumes: []v1.Volume{
		{Name: "data"}, {Name: "image", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "i"}}},
	}}}
	mounts := &v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "data"}, {Name: "image"}}}
	r.countImageVolumes(pod, mounts, nil)
	r.countImageVolumes(pod, mounts, &startError{Waiting: Waiting{ReasonCreateError, "no space left on device"}})
	r.countImageVolumes(pod, &v1.Container{}, &startError{Waiting: Waiting{ReasonCreateError, "ImageVolumeMountFailed: no such image"}})
	r.countImageVolumes(pod, mounts, &startError{Waiting: Waiting{ReasonCreateError, "ImageVolumeMountFailed: no such image"}})
	err := testutil.GatherAndCompare(r.metrics.All, strings.NewReader(`
# HELP kubelet_image_volume_mounted_errors_total [BETA] Number of failed image volume mounts.
# TYPE kubelet_image_volume_mounted_errors_total counter
kubelet_image_volume_mounted_errors_total 1
# HELP kubelet_image_volume_mounted_succeed_total [BETA] Number of successful image volume mounts.
# TYPE kubelet_image_volume_mounted_succeed_total counter
kubelet_image_volume_mounted_succeed_total 2
# HELP kubelet_image_volume_requested_total [BETA] Number of requested image volumes.
# TYPE kubelet_image_volume_requested_total counter
kubelet_image_volume_requested_total 4
`), "kubelet_image_volume_requested_total", "kubelet_image_volume_mounted_succeed_total", "kubelet_image_volume_mounted_errors_total")
	if err != nil {
		t.Error(err)
	}
}
