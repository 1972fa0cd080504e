// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// emptyDir is a directory that lives as long as the pod: on the node's disk, in memory, or in huge
// pages.
type emptyDir struct{ m *Manager }

func (emptyDir) name() string { return "kubernetes.io/empty-dir" }

func (emptyDir) supports(v *volume) bool { return v.source.EmptyDir != nil }

func (e emptyDir) setUp(_ context.Context, v *volume) (mounted, error) {
	at, err := isMountPoint(v.dir)
	if err != nil {
		return mounted{}, err
	}
	onDisk := v.source.EmptyDir.Medium == corev1.StorageMediumDefault
	if e.isReady(v) && (onDisk && exists(v.dir) || !onDisk && at) {
		return mounted{path: v.dir}, nil
	}
	if err := e.mount(v, at); err != nil {
		return mounted{}, err
	}
	if err := setOwnership(v.dir, v.fsGroup(), false, nil); err != nil {
		return mounted{}, err
	}
	return mounted{path: v.dir}, e.markReady(v)
}

// mount makes the directory, and mounts the medium unless something is mounted already.
func (e emptyDir) mount(v *volume, already bool) error {
	if already {
		return nil
	}
	if err := makeOpenDir(v.dir); err != nil {
		return err
	}
	switch medium := v.source.EmptyDir.Medium; {
	case medium == corev1.StorageMediumDefault:
		return nil
	case medium == corev1.StorageMediumMemory:
		return e.m.mountTmpfs(v.dir, v.pod, v.source.EmptyDir.SizeLimit)
	case strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePages)):
		size, err := pageSize(medium, v.pod)
		if err != nil {
			return err
		}
		return unix.Mount("nodev", v.dir, "hugetlbfs", 0, fmt.Sprintf("pagesize=%d", size.Value()))
	default:
		return fmt.Errorf("unknown storage medium %q", medium)
	}
}

// readyFile tells that the volume was made completely, fsGroup and all. It is not in the volume
// itself, where the pod could see it.
func (e emptyDir) readyFile(v *volume) string {
	return filepath.Join(e.m.PodDir(v.pod.UID), "plugins", escape(e.name()), v.source.Name, "ready")
}

func (e emptyDir) isReady(v *volume) bool { return exists(e.readyFile(v)) }

func (e emptyDir) markReady(v *volume) error {
	file := e.readyFile(v)
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	return os.WriteFile(file, nil, 0o640)
}

// makeOpenDir makes a directory that every user of the pod may write to, whatever the umask is.
func makeOpenDir(dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}

// mountTmpfs mounts memory at dir that the pod may fill up to limit, its own memory limit, or the
// node's memory, whichever is least. Its pages stay out of swap where the kernel can do that.
func (m *Manager) mountTmpfs(dir string, pod *corev1.Pod, limit *resource.Quantity) error {
	node, err := m.cfg.Node()
	if err != nil {
		return err
	}
	size := node.Status.Allocatable.Memory().Value()
	for _, q := range []*resource.Quantity{podMemoryLimit(pod), limit} {
		if q != nil && q.Value() > 0 && (size == 0 || q.Value() < size) {
			size = q.Value()
		}
	}
	var options []string
	if size > 0 {
		options = append(options, fmt.Sprintf("size=%d", size))
	}
	err = unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(append(options, "noswap"), ","))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) { // before Linux 6.4, or in a user namespace
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(options, ","))
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// podMemoryLimit is the limit of the pod's cgroup, or nil if one of its containers has none.
func podMemoryLimit(pod *corev1.Pod) *resource.Quantity {
	if !resourcehelper.IsPodLevelLimitsSet(pod) {
		for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				if list[i].Resources.Limits.Memory().IsZero() {
					return nil
				}
			}
		}
	}
	limit, ok := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})[corev1.ResourceMemory]
	if !ok {
		return nil
	}
	return &limit
}

// pageSize finds the huge page size that medium names, or the only one that pod requests.
func pageSize(medium corev1.StorageMedium, pod *corev1.Pod) (resource.Quantity, error) {
	var named, found resource.Quantity
	if size, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); ok {
		var err error
		if named, err = resource.ParseQuantity(size); err != nil {
			return named, err
		}
	}
	lists := []corev1.ResourceList{}
	if pod.Spec.Resources != nil {
		lists = append(lists, pod.Spec.Resources.Requests)
	}
	for c := range podcontainers.All(pod) {
		lists = append(lists, c.Resources.Requests)
	}
	for _, list := range lists {
		for name := range list {
			text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			if !ok {
				continue
			}
			size, err := resource.ParseQuantity(text)
			switch {
			case err != nil:
				return size, err
			case !named.IsZero() && size.Cmp(named) != 0:
				continue
			case !found.IsZero() && found.Cmp(size) != 0:
				return size, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
			}
			found = size
		}
	}
	if found.IsZero() {
		return found, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	}
	return found, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
