// SPDX-License-Identifier: Apache-2.0

package objects

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/internal/podcontainers"
)

// Needed tells whether a pod refers to any ConfigMap or Secret.
func Needed(pod *corev1.Pod) bool { return len(references(pod)) > 0 }

// references lists all ConfigMaps and Secrets that the kubelet reads for pod: for volumes,
// environments and image pulls.
func references(pod *corev1.Pod) map[key]bool {
	refs := map[key]bool{}
	add := func(resource, name string) {
		if name != "" {
			refs[key{resource, pod.Namespace, name}] = true
		}
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(secrets, s.Name)
	}
	for i := range pod.Spec.Volumes {
		volumeReferences(&pod.Spec.Volumes[i], add)
	}
	for c := range podcontainers.All(pod) {
		envReferences(c.Env, c.EnvFrom, add)
	}
	return refs
}

func volumeReferences(v *corev1.Volume, add func(resource, name string)) {
	if v.ConfigMap != nil {
		add(configMaps, v.ConfigMap.Name)
	}
	if v.Secret != nil {
		add(secrets, v.Secret.SecretName)
	}
	if v.Projected == nil {
		return
	}
	for i := range v.Projected.Sources {
		s := &v.Projected.Sources[i]
		if s.ConfigMap != nil {
			add(configMaps, s.ConfigMap.Name)
		}
		if s.Secret != nil {
			add(secrets, s.Secret.Name)
		}
	}
}

func envReferences(env []corev1.EnvVar, from []corev1.EnvFromSource, add func(resource, name string)) {
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
			add(configMaps, r.Name)
		}
		if r := e.ValueFrom.SecretKeyRef; r != nil {
			add(secrets, r.Name)
		}
	}
	for _, f := range from {
		if f.ConfigMapRef != nil {
			add(configMaps, f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			add(secrets, f.SecretRef.Name)
		}
	}
}
