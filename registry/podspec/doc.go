// SPDX-License-Identifier: Apache-2.0

// Package podspec has the rules for pods that all resources with a pod in them share: a Pod itself,
// and the templates of Deployments, Jobs and the like.
//
//   - defaults.go: DefaultPod and DefaultTemplate fill in what was left out;
//     podlevel.go does so for the resources of a pod as a whole.
//   - drop.go: DropDisabledPod and DropDisabledTemplate clear fields that are not on in Kubernetes 1.37.
//   - validate.go: ValidatePod, ValidateTemplate and ValidateSpec say what is wrong, with a file for each
//     part of the spec (volumes.go, containers.go, resources.go, security.go, ...).
//   - options.go: what an update may keep although a new pod may not have it.
//   - warnings.go: what is allowed and still deserves a word to the user.
//   - claim.go, persistentvolume.go: claims and volumes, which pods describe in the same terms.
//
// Everything is a function of the objects it is given. Where a rule is a matter of a feature gate, it
// follows the gate's default of Kubernetes 1.37. Errors have the paths, types and words of upstream.
package podspec

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Containers iterates over all containers of a pod with their paths: init containers, containers and
// ephemeral containers. With a nil path the paths are relative to the spec.
func Containers(spec *corev1.PodSpec, path *field.Path) iter.Seq2[*corev1.Container, *field.Path] {
	return func(yield func(*corev1.Container, *field.Path) bool) {
		for i := range spec.InitContainers {
			if !yield(&spec.InitContainers[i], path.Child("initContainers").Index(i)) {
				return
			}
		}
		for i := range spec.Containers {
			if !yield(&spec.Containers[i], path.Child("containers").Index(i)) {
				return
			}
		}
		for i := range spec.EphemeralContainers {
			c := (*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(c, path.Child("ephemeralContainers").Index(i)) {
				return
			}
		}
	}
}

// Sidecar tells whether an init container keeps running beside the containers.
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
