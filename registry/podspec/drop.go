// SPDX-License-Identifier: Apache-2.0

package podspec

import (
	corev1 "k8s.io/api/core/v1"
)

// fieldGate is a field that Kubernetes 1.37 has, but does not use unless a feature gate is opened.
// Objects that have it already, because another server stored them, keep it.
type fieldGate struct {
	feature string
	used    func(*corev1.PodSpec) bool
	clear   func(*corev1.PodSpec)
}

var closedGates = []fieldGate{
	{"AtomicWriteVolumeUserFields", fileUsersInUse, clearFileUsers},
	{"ContainerStopSignals", anyContainer(func(c *corev1.Container) bool {
		return c.Lifecycle != nil && c.Lifecycle.StopSignal != nil
	}), eachContainer(func(c *corev1.Container) {
		if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
			return
		}
		c.Lifecycle.StopSignal = nil
		if *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
	})},
	{"EmptyDirVolumeMode", func(spec *corev1.PodSpec) bool {
		for _, v := range spec.Volumes {
			if v.EmptyDir != nil && v.EmptyDir.Mode != nil {
				return true
			}
		}
		return false
	}, func(spec *corev1.PodSpec) {
		for _, v := range spec.Volumes {
			if v.EmptyDir != nil {
				v.EmptyDir.Mode = nil
			}
		}
	}},
	{
		"EvictionRequestAPI", func(spec *corev1.PodSpec) bool { return len(spec.EvictionResponders) > 0 },
		func(spec *corev1.PodSpec) { spec.EvictionResponders = nil },
	},
	{
		"GenericWorkload", func(spec *corev1.PodSpec) bool { return spec.SchedulingGroup != nil },
		func(spec *corev1.PodSpec) { spec.SchedulingGroup = nil },
	},
	{"GRPCContainerProbeTLS", anyContainer(func(c *corev1.Container) bool {
		for _, p := range probes(c) {
			if p.GRPC != nil && p.GRPC.Mode != nil {
				return true
			}
		}
		return false
	}), eachContainer(func(c *corev1.Container) {
		for _, p := range probes(c) {
			if p.GRPC != nil {
				p.GRPC.Mode = nil
			}
		}
	})},
	{"H2CContainerProbe", anyContainer(func(c *corev1.Container) bool {
		for _, get := range httpGets(c) {
			if get.Protocol != nil {
				return true
			}
		}
		return false
	}), eachContainer(func(c *corev1.Container) {
		for _, get := range httpGets(c) {
			get.Protocol = nil
		}
	})},
	{"VolumeBindMountOptions", anyContainer(func(c *corev1.Container) bool {
		for _, m := range c.VolumeMounts {
			if len(m.BindMountOptions) > 0 {
				return true
			}
		}
		return false
	}), eachContainer(func(c *corev1.Container) {
		for i := range c.VolumeMounts {
			c.VolumeMounts[i].BindMountOptions = nil
		}
	})},
}

// Annotations that were init containers before Kubernetes 1.8.
var initContainerAnnotations = []string{
	"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
	"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
}

// DropDisabledPod clears what this version does not use, unless the old Pod has it. old may be nil.
func DropDisabledPod(pod, old *corev1.Pod) {
	if old == nil {
		old = &corev1.Pod{}
	}
	dropDisabled(&pod.Spec, &old.Spec, pod.Annotations)

	if len(old.Status.NodeAllocatableResourceClaimStatuses) == 0 {
		pod.Status.NodeAllocatableResourceClaimStatuses = nil
	}
	if len(old.Status.VolumeHealth) == 0 {
		pod.Status.VolumeHealth = nil
	}
	if !imageDigestsInUse(&old.Status) {
		eachMountStatus(&pod.Status, func(m *corev1.VolumeMountStatus) { m.VolumeStatus = nil })
	}
}

// DropDisabledTemplate is DropDisabledPod for what pods are made from. old may be nil.
func DropDisabledTemplate(template, old *corev1.PodTemplateSpec) {
	if old == nil {
		old = &corev1.PodTemplateSpec{}
	}
	dropDisabled(&template.Spec, &old.Spec, template.Annotations)
}

func dropDisabled(spec, old *corev1.PodSpec, annotations map[string]string) {
	for _, gate := range closedGates {
		if gate.used(spec) && !gate.used(old) {
			gate.clear(spec)
		}
	}
	for _, key := range initContainerAnnotations {
		delete(annotations, key)
	}
}

func anyContainer(is func(*corev1.Container) bool) func(*corev1.PodSpec) bool {
	return func(spec *corev1.PodSpec) bool {
		for c := range Containers(spec, nil) {
			if is(c) {
				return true
			}
		}
		return false
	}
}

func eachContainer(do func(*corev1.Container)) func(*corev1.PodSpec) {
	return func(spec *corev1.PodSpec) {
		for c := range Containers(spec, nil) {
			do(c)
		}
	}
}

func probes(c *corev1.Container) []*corev1.Probe {
	var list []*corev1.Probe
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

func httpGets(c *corev1.Container) []*corev1.HTTPGetAction {
	var list []*corev1.HTTPGetAction
	for _, p := range probes(c) {
		if p.HTTPGet != nil {
			list = append(list, p.HTTPGet)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				list = append(list, h.HTTPGet)
			}
		}
	}
	return list
}

// fileUsers lists the owners of all files that volumes are made of.
func fileUsers(spec *corev1.PodSpec) []**int64 {
	var users []**int64
	keys := func(items []corev1.KeyToPath) {
		for i := range items {
			users = append(users, &items[i].User)
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			users = append(users, &items[i].User)
		}
	}
	for _, v := range spec.Volumes {
		if v.Secret != nil {
			users = append(users, &v.Secret.DefaultUser)
			keys(v.Secret.Items)
		}
		if v.ConfigMap != nil {
			users = append(users, &v.ConfigMap.DefaultUser)
			keys(v.ConfigMap.Items)
		}
		if v.DownwardAPI != nil {
			users = append(users, &v.DownwardAPI.DefaultUser)
			files(v.DownwardAPI.Items)
		}
		if v.Projected == nil {
			continue
		}
		users = append(users, &v.Projected.DefaultUser)
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				keys(s.Secret.Items)
			}
			if s.ConfigMap != nil {
				keys(s.ConfigMap.Items)
			}
			if s.DownwardAPI != nil {
				files(s.DownwardAPI.Items)
			}
			if s.ServiceAccountToken != nil {
				users = append(users, &s.ServiceAccountToken.User)
			}
			if s.ClusterTrustBundle != nil {
				users = append(users, &s.ClusterTrustBundle.User)
			}
			if s.PodCertificate != nil {
				users = append(users, &s.PodCertificate.User)
			}
		}
	}
	return users
}

func fileUsersInUse(spec *corev1.PodSpec) bool {
	for _, user := range fileUsers(spec) {
		if *user != nil {
			return true
		}
	}
	return false
}

func clearFileUsers(spec *corev1.PodSpec) {
	for _, user := range fileUsers(spec) {
		*user = nil
	}
}

func eachMountStatus(status *corev1.PodStatus, do func(*corev1.VolumeMountStatus)) {
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			for j := range list[i].VolumeMounts {
				do(&list[i].VolumeMounts[j])
			}
		}
	}
}

func imageDigestsInUse(status *corev1.PodStatus) bool {
	used := false
	eachMountStatus(status, func(m *corev1.VolumeMountStatus) { used = used || m.VolumeStatus != nil })
	return used
}
