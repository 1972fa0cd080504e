// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
)

// The signals of pods that use more of the node's disk than they may.
const (
	emptyDirLimit  Signal = "emptydirfs.limit"
	podLimit       Signal = "ephemeralpodfs.limit"
	containerLimit Signal = "ephemeralcontainerfs.limit"
)

// limitsDisk says whether a pod may use only so much of the node's disk, so that somebody has to look.
func limitsDisk(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if sizeLimit(&pod.Spec.Volumes[i]) != nil {
			return true
		}
	}
	limits := podresource.PodLimits(pod, podresource.PodResourcesOptions{})
	return !limits.StorageEphemeral().IsZero()
}

// sizeLimit is how large an emptyDir on the disk may become; nil for any size. One in memory cannot become larger.
func sizeLimit(v *v1.Volume) *resource.Quantity {
	if v.EmptyDir == nil || v.EmptyDir.Medium != v1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return nil
	}
	return v.EmptyDir.SizeLimit
}

// overDisk says why a pod is evicted for the disk that it uses; false if it stays within its limits.
func overDisk(pod *v1.Pod, u *Usage) (Verdict, bool) {
	over := func(signal Signal, format string, args ...any) (Verdict, bool) {
		return Verdict{Signal: signal, Message: fmt.Sprintf(format, args...), Grace: hardGrace}, true
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if limit := sizeLimit(v); limit != nil && u.Volumes[v.Name] > limit.Value() {
			return over(emptyDirLimit, "Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	limits := podresource.PodLimits(pod, podresource.PodResourcesOptions{})
	if limit := limits.StorageEphemeral(); !limit.IsZero() && u.Disk > limit.Value() {
		return over(podLimit, "Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			limit := list[i].Resources.Limits.StorageEphemeral()
			if !limit.IsZero() && u.Containers[list[i].Name].Disk > limit.Value() {
				return over(containerLimit, "Container %s exceeded its local ephemeral storage limit %q. ", list[i].Name, limit.String())
			}
		}
	}
	return Verdict{}, false
}
