// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/kubelet/admit"
	"github.com/skiff-k8s/skiff/kubelet/containers"
)

// assign gives a pod that is being admitted the devices and CPUs that only one can have.
func (k *Kubelet) assign(ctx context.Context, pod *v1.Pod) *admit.Rejection {
	err := k.devices.Allocate(ctx, pod)
	if err == nil {
		err = k.cpus.Allocate(pod)
	}
	if err == nil {
		return nil
	}
	return &admit.Rejection{Reason: "UnexpectedAdmissionError", Message: "Pod was rejected: " + errors.Join(err, k.unassign(ctx, pod.UID)).Error()}
}

// unassign takes back what only one can have, once the pod's containers have ended.
func (k *Kubelet) unassign(ctx context.Context, pod types.UID) error {
	had := k.cpus.Has(pod)
	err := errors.Join(k.devices.Forget(pod), k.cpus.Forget(pod))
	if had {
		k.shareCPUs(ctx)
	}
	return err
}

// shareCPUs lets the running containers that have no CPUs of their own use exactly those that nobody has.
func (k *Kubelet) shareCPUs(ctx context.Context) {
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	list, err := k.cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		klog.FromContext(ctx).Error(err, "Sharing the CPUs that no container has for itself")
		return
	}
	for _, c := range list.GetContainers() {
		uid, name := containers.Owner(c)
		if uid == "" {
			continue
		}
		_, err := k.cri.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: c.GetId(), Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: k.cpus.Of(uid, name).String()},
		})
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Changing the CPUs of a container", "container", c.GetId())
		}
	}
}

// Assigned collects what plugins and the CPU manager want the container to have.
func (h host) Assigned(ctx context.Context, pod *v1.Pod, c *v1.Container) (*containers.Assigned, error) {
	a := &containers.Assigned{Annotations: map[string]string{}}
	responses, err := h.k.devices.Of(ctx, pod.UID, c.Name)
	if err != nil {
		return nil, err
	}
	for _, r := range responses {
		for name, value := range r.GetEnvs() {
			a.Envs = append(a.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(value)})
		}
		for _, m := range r.GetMounts() {
			a.Mounts = append(a.Mounts, &runtimeapi.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly})
		}
		for _, d := range r.GetDevices() {
			a.Devices = append(a.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
		}
		for _, d := range r.GetCdiDevices() {
			a.CDI = append(a.CDI, &runtimeapi.CDIDevice{Name: d.Name})
		}
		maps.Copy(a.Annotations, r.GetAnnotations())
	}
	for _, claim := range h.k.claims.Of(pod, c) {
		for _, device := range claim.Devices {
			for _, name := range device.CDI {
				a.CDI = append(a.CDI, &runtimeapi.CDIDevice{Name: name})
			}
		}
	}
	if h.k.cpus != nil {
		a.CPUs = h.k.cpus.Of(pod.UID, c.Name).String()
	}
	return a, nil
}

// prepareClaims has drivers prepare the pod's ResourceClaims.
func (k *Kubelet) prepareClaims(ctx context.Context, pod *v1.Pod) error {
	err := k.claims.Prepare(ctx, pod)
	if err != nil && ctx.Err() == nil {
		k.events.Eventf(pod, v1.EventTypeWarning, "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: %v", err)
	}
	if err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}
