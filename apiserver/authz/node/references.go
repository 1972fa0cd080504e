// SPDX-License-Identifier: Apache-2.0

package node

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// inPod tells whether a pod refers to an object of some kind in its namespace. A mirror pod refers
// to nothing: its node wrote it, and could give itself access to anything.
type inPod func(pod *corev1.Pod, name string) bool

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

func isPod(pod *corev1.Pod, name string) bool { return pod.Name == name }

func usesServiceAccount(pod *corev1.Pod, name string) bool {
	return !isMirror(pod) && pod.Spec.ServiceAccountName == name
}

func mountsClaim(pod *corev1.Pod, name string) bool {
	return !isMirror(pod) && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		switch {
		case v.PersistentVolumeClaim != nil:
			return v.PersistentVolumeClaim.ClaimName == name
		case v.Ephemeral != nil:
			return ephemeral.VolumeClaimName(pod, &v) == name
		}
		return false
	})
}

// refersToResourceClaim knows claims that the pod names, and those that were made for it.
func refersToResourceClaim(pod *corev1.Pod, name string) bool {
	if isMirror(pod) {
		return false
	}
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimName != nil && *c.ResourceClaimName == name {
			return true
		}
	}
	for _, s := range pod.Status.ResourceClaimStatuses {
		if s.ResourceClaimName != nil && *s.ResourceClaimName == name {
			return true
		}
	}
	extended := pod.Status.ExtendedResourceClaimStatus
	return extended != nil && extended.ResourceClaimName == name
}

func refersToConfigMap(pod *corev1.Pod, name string) bool {
	return !isMirror(pod) && slices.Contains(ConfigMapNames(pod), name)
}

func refersToSecret(pod *corev1.Pod, name string) bool {
	return !isMirror(pod) && slices.Contains(SecretNames(pod), name)
}

// ConfigMapNames are the ConfigMaps that the pod refers to.
func ConfigMapNames(pod *corev1.Pod) []string {
	var names []string
	for _, env := range environments(pod) {
		for _, from := range env.from {
			if from.ConfigMapRef != nil {
				names = append(names, from.ConfigMapRef.Name)
			}
		}
		for _, v := range env.vars {
			if v.ValueFrom != nil && v.ValueFrom.ConfigMapKeyRef != nil {
				names = append(names, v.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
	}
	for _, v := range pod.Spec.Volumes {
		if v.ConfigMap != nil {
			names = append(names, v.ConfigMap.Name)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				names = append(names, s.ConfigMap.Name)
			}
		}
	}
	return names
}

// SecretNames are the Secrets that the pod refers to.
func SecretNames(pod *corev1.Pod) []string {
	var names []string
	for _, ref := range pod.Spec.ImagePullSecrets {
		names = append(names, ref.Name)
	}
	for _, env := range environments(pod) {
		for _, from := range env.from {
			if from.SecretRef != nil {
				names = append(names, from.SecretRef.Name)
			}
		}
		for _, v := range env.vars {
			if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
				names = append(names, v.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for i := range pod.Spec.Volumes {
		names = append(names, volumeSecrets(&pod.Spec.Volumes[i])...)
	}
	return names
}

// environment is what a container of whatever kind takes from elsewhere.
type environment struct {
	from []corev1.EnvFromSource
	vars []corev1.EnvVar
}

func environments(pod *corev1.Pod) []environment {
	var all []environment
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range list {
			all = append(all, environment{c.EnvFrom, c.Env})
		}
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, environment{c.EnvFrom, c.Env})
	}
	return all
}

// volumeSecrets are the Secrets that the kubelet needs to mount the volume.
func volumeSecrets(v *corev1.Volume) []string {
	local := func(ref *corev1.LocalObjectReference) []string {
		if ref == nil {
			return nil
		}
		return []string{ref.Name}
	}
	switch s := v.VolumeSource; {
	case s.Secret != nil:
		return []string{s.Secret.SecretName}
	case s.Projected != nil:
		var names []string
		for _, p := range s.Projected.Sources {
			if p.Secret != nil {
				names = append(names, p.Secret.Name)
			}
		}
		return names
	case s.CSI != nil:
		return local(s.CSI.NodePublishSecretRef)
	case s.AzureFile != nil:
		return []string{s.AzureFile.SecretName}
	case s.CephFS != nil:
		return local(s.CephFS.SecretRef)
	case s.Cinder != nil:
		return local(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		return local(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		return local(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		return local(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		return local(s.ISCSI.SecretRef)
	case s.StorageOS != nil:
		return local(s.StorageOS.SecretRef)
	}
	return nil
}

// volumeNeedsSecret tells whether the kubelet needs the Secret to mount the bound volume. References
// without a namespace mean the claim's.
func volumeNeedsSecret(pv *corev1.PersistentVolume, namespace, name string) bool {
	if pv.Spec.ClaimRef == nil {
		return false
	}
	is := func(ref *corev1.SecretReference) bool {
		if ref == nil || ref.Name != name {
			return false
		}
		return ref.Namespace == namespace || ref.Namespace == "" && pv.Spec.ClaimRef.Namespace == namespace
	}
	switch s := pv.Spec.PersistentVolumeSource; {
	case s.AzureFile != nil:
		in := pv.Spec.ClaimRef.Namespace
		if s.AzureFile.SecretNamespace != nil && *s.AzureFile.SecretNamespace != "" {
			in = *s.AzureFile.SecretNamespace
		}
		return s.AzureFile.SecretName == name && in == namespace
	case s.CephFS != nil:
		return is(s.CephFS.SecretRef)
	case s.Cinder != nil:
		return is(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		return is(s.FlexVolume.SecretRef)
	case s.RBD != nil:
		return is(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		return is(s.ScaleIO.SecretRef)
	case s.ISCSI != nil:
		return is(s.ISCSI.SecretRef)
	case s.StorageOS != nil:
		return s.StorageOS.SecretRef != nil && s.StorageOS.SecretRef.Name == name && s.StorageOS.SecretRef.Namespace == namespace
	case s.CSI != nil:
		return is(s.CSI.NodePublishSecretRef) || is(s.CSI.NodeStageSecretRef) || is(s.CSI.NodeExpandSecretRef)
	}
	return false
}
