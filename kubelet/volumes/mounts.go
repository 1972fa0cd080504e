// SPDX-License-Identifier: Apache-2.0

package volumes

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/env"
)

// Mounts returns the volumes that container has mounted, as of the last SetUp. podIPs are the addresses
// that the runtime gave to the pod.
func (m *Manager) Mounts(ctx context.Context, pod *corev1.Pod, container *corev1.Container, podIPs []string) ([]*runtimeapi.Mount, error) {
	var mounts []*runtimeapi.Mount
	for i := range container.VolumeMounts {
		mount, err := m.mount(ctx, pod, container, i, podIPs)
		if err != nil {
			return nil, err
		}
		mounts = append(mounts, mount)
	}
	return mounts, nil
}

// Paths are the folders on this node of a pod's volumes, as of the last SetUp, by the pod's names for them.
func (m *Manager) Paths(pod types.UID) map[string]string {
	return m.paths(pod, func(v mounted) bool { return !v.device })
}

// Places are those folders and the block devices, all of which Measure knows something about.
func (m *Manager) Places(pod types.UID) map[string]string {
	return m.paths(pod, func(mounted) bool { return true })
}

func (m *Manager) paths(pod types.UID, include func(mounted) bool) map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	paths := map[string]string{}
	for name, v := range m.pods[pod] {
		if v.path != "" && include(v) {
			paths[name] = v.path
		}
	}
	return paths
}

// Images are the IDs of the images that pods have as volumes.
func (m *Manager) Images() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ids []string
	for _, volumes := range m.pods {
		for _, v := range volumes {
			if v.image != nil {
				ids = append(ids, v.image.GetImage())
			}
		}
	}
	return ids
}

// mount returns the container's volume mount with this index.
func (m *Manager) mount(ctx context.Context, pod *corev1.Pod, container *corev1.Container, index int, podIPs []string) (*runtimeapi.Mount, error) {
	vm := &container.VolumeMounts[index]
	vol, ok := m.mountedVolume(pod, vm.Name)
	if !ok || vol.device {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, container.Name)
	}
	sub, err := m.subPathOf(ctx, pod, container, vm, podIPs)
	if err != nil {
		return nil, err
	}
	recursive, err := recursiveReadOnly(vm, m.canRecursive(pod))
	if err != nil {
		return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
	}
	propagation, err := propagationOf(vm)
	if err != nil {
		return nil, err
	}
	mount := &runtimeapi.Mount{
		ContainerPath:     filepath.Join("/", vm.MountPath),
		HostPath:          vol.path,
		Readonly:          vm.ReadOnly || vol.readOnly,
		RecursiveReadOnly: recursive,
		Propagation:       propagation,
	}
	switch {
	case vol.image != nil:
		mount.Image, mount.ImageSubPath = vol.image, sub
	case sub != "":
		mount.HostPath, err = m.bindSubPath(subPath{
			pod: pod.UID, volume: vol.name, container: container.Name, index: index, base: vol.path, path: sub,
		})
		if err != nil { // what exactly is wrong could tell the pod about the node's files
			klog.FromContext(ctx).Error(err, "Preparing subPath", "pod", klog.KObj(pod), "container", container.Name, "volume", vm.Name)
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", vm.Name, container.Name)
		}
	}
	return mount, nil
}

// Devices returns the block volumes that container has as devices.
func (m *Manager) Devices(_ context.Context, pod *corev1.Pod, container *corev1.Container) ([]*runtimeapi.Device, error) {
	var devices []*runtimeapi.Device
	for i := range container.VolumeDevices {
		vd := &container.VolumeDevices[i]
		if !filepath.IsAbs(vd.DevicePath) {
			return nil, fmt.Errorf("error DevicePath `%s` must be an absolute path", vd.DevicePath)
		}
		vol, ok := m.mountedVolume(pod, vd.Name)
		if !ok || !vol.device {
			return nil, fmt.Errorf("cannot find volume %q to pass into container %q", vd.Name, container.Name)
		}
		permissions := "mrw"
		if vol.readOnly {
			permissions = "r"
		}
		devices = append(devices, &runtimeapi.Device{HostPath: vol.path, ContainerPath: vd.DevicePath, Permissions: permissions})
	}
	return devices, nil
}

func (m *Manager) mountedVolume(pod *corev1.Pod, name string) (mounted, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	vol, ok := m.pods[pod.UID][name]
	return vol, ok
}

// subPathOf returns the path inside the volume that vm mounts, expanded and checked.
func (m *Manager) subPathOf(ctx context.Context, pod *corev1.Pod, container *corev1.Container, vm *corev1.VolumeMount, podIPs []string) (string, error) {
	path := vm.SubPath
	if vm.SubPathExpr != "" {
		vars, err := m.cfg.Env.Environ(ctx, pod, container, "", podIPs)
		if err != nil {
			return "", err
		}
		if path, err = env.SubPath(vm, vars); err != nil {
			return "", err
		}
	}
	if filepath.IsAbs(path) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", path)
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", path)
	}
	return path, nil
}

func (m *Manager) canRecursive(pod *corev1.Pod) bool {
	if m.cfg.RecursiveReadOnly == nil {
		return false
	}
	handler := ""
	if pod.Spec.RuntimeClassName != nil {
		handler = *pod.Spec.RuntimeClassName
	}
	return m.cfg.RecursiveReadOnly(handler)
}

func recursiveReadOnly(vm *corev1.VolumeMount, supported bool) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if !vm.ReadOnly {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", vm.Name)
	}
	if vm.MountPropagation != nil && *vm.MountPropagation != corev1.MountPropagationNone {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", vm.Name, *vm.MountPropagation)
	}
	switch *vm.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyIfPossible:
		return supported, nil
	case corev1.RecursiveReadOnlyEnabled:
		if !supported {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
		}
		return true, nil
	}
	return false, fmt.Errorf("unknown recursive read-only mode %q", *vm.RecursiveReadOnly)
}

func propagationOf(vm *corev1.VolumeMount) (runtimeapi.MountPropagation, error) {
	if vm.MountPropagation == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	}
	switch *vm.MountPropagation {
	case corev1.MountPropagationNone:
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE, nil
	case corev1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, nil
	case corev1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL, nil
	}
	return 0, fmt.Errorf("invalid MountPropagation mode: %q", *vm.MountPropagation)
}
