// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/registry/rest"
)

// Pods says what is particular to pods. The rules are in pod*_rules.go, binding and what else a pod can be
// asked for in the files of those names.
func Pods(deps Deps) rest.Resource[*corev1.Pod] {
	return rest.Resource[*corev1.Pod]{
		Kind:          corev1.SchemeGroupVersion.WithKind("Pod"),
		Plural:        "pods",
		Singular:      "pod",
		StatusResets:  []string{"metadata.deletionTimestamp", "metadata.ownerReferences"},
		Columns:       podColumns(),
		RowConditions: podRowConditions,
		ShortNames:    []string{"po"},
		Categories:    []string{"all"},
		Namespaced:    true,
		Fields:        podFields,
		IndexedFields: []string{"spec.nodeName"},
		FieldLabels: map[schema.GroupVersion]map[string]string{corev1.SchemeGroupVersion: {
			"spec.host":     "spec.nodeName", // old clients
			"status.podIPs": "status.podIPs", // which selects nothing, as upstream's
		}},
		Default: podspec.DefaultPod,
		PrepareCreate: func(ctx context.Context, pod *corev1.Pod) {
			for _, text := range preparePodCreate(pod) {
				warning.AddWarning(ctx, "", text)
			}
		},
		Validate:       validatePod,
		PrepareUpdate:  preparePodUpdate,
		ValidateUpdate: validatePodUpdate,
		Warnings: func(pod, old *corev1.Pod) []string {
			if old != nil {
				return nil
			}
			return podWarnings(pod)
		},
		PrepareStatusUpdate: preparePodStatusUpdate,
		ValidateStatus:      validatePodStatusUpdate,
		StatusWarnings:      podStatusWarnings,
		GracefulDelete:      checkPodGracefulDelete,
		ReturnDeleted:       true,
		Subresources: func(store, status *rest.Store) map[string]genericrest.Storage {
			out := map[string]genericrest.Storage{
				"binding":             &bindingREST{store},
				"ephemeralcontainers": rest.Part(store, preparePodEphemeralContainersUpdate, validatePodEphemeralContainersUpdate, ownedByEphemeralContainers),
				"resize":              rest.Part(store, preparePodResizeUpdate, validatePodResizeUpdate, ownedByResize),
			}
			if deps.Budgets != nil {
				out["eviction"] = &evictionREST{status, deps.Budgets}
			}
			for name, storage := range deps.PodConnections {
				out[name] = storage
			}
			return out
		},
	}
}
