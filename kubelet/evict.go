// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/diskusage"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
)

// evictable is the node as the eviction manager sees it.
type evictable struct{ k *Kubelet }

func (e evictable) Pods() []*v1.Pod { return e.k.active() }

func (e evictable) PressureChanged() { e.k.agent.Poke() }

func (e evictable) PodsMemory() (eviction.Observation, bool) {
	used, most, limited := e.k.tree.PodsMemory()
	return eviction.Observation{Available: most - used, Capacity: most}, limited
}

// ImageFS is where images lie, if that is a file system of its own.
func (e evictable) ImageFS(ctx context.Context) string {
	info, err := e.k.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.GetImageFilesystems()) == 0 {
		return ""
	}
	dir := info.GetImageFilesystems()[0].GetFsId().GetMountpoint()
	var images, root syscall.Stat_t
	if syscall.Stat(dir, &images) != nil || syscall.Stat(e.k.cfg.Root, &root) != nil || images.Dev == root.Dev {
		return ""
	}
	return dir
}

func (e evictable) FreeDisk(ctx context.Context) error {
	return errors.Join(e.k.runtime.CollectGarbage(ctx, containers.Policy{}, e.k.gone), e.k.imageGC.Free(ctx))
}

// Evict ends a pod at once.
func (e evictable) Evict(uid types.UID, v eviction.Verdict) <-chan struct{} {
	e.k.metrics.Evictions.WithLabelValues(string(v.Signal)).Inc()
	return e.k.endPod(uid, eviction.Reason, v.Message, v.Message, &v.Grace)
}

// Usage asks the runtime and walks the pod's folders. It is called only when the node runs short.
func (e evictable) Usage(ctx context.Context, pod *v1.Pod) (eviction.Usage, error) {
	u := eviction.Usage{Containers: map[string]eviction.ContainerUsage{}, Volumes: map[string]int64{}}
	resp, err := e.k.cri.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod.UID)}},
	})
	if err != nil {
		return u, fmt.Errorf("get container stats: %w", err)
	}
	for _, c := range resp.GetStats() {
		name := c.GetAttributes().GetLabels()[kubelettypes.KubernetesContainerNameLabel]
		logs, logInodes := diskusage.OfFolder(filepath.Join(e.k.runtime.LogDir(pod), name))
		own := eviction.ContainerUsage{
			Memory: int64(c.GetMemory().GetWorkingSetBytes().GetValue()),
			Disk:   int64(c.GetWritableLayer().GetUsedBytes().GetValue()) + logs,
		}
		u.Containers[name] = own
		u.Memory, u.Disk = u.Memory+own.Memory, u.Disk+own.Disk
		u.Inodes += int64(c.GetWritableLayer().GetInodesUsed().GetValue()) + logInodes
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault {
			bytes, inodes := diskusage.OfFolder(filepath.Join(e.k.runtime.PodDir(pod.UID), "volumes", "kubernetes.io~empty-dir", v.Name))
			u.Volumes[v.Name] = bytes
			u.Disk, u.Inodes = u.Disk+bytes, u.Inodes+inodes
		}
	}
	u.Processes = e.k.tree.Processes(pod)
	return u, nil
}
