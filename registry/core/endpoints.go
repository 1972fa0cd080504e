// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Endpoints says what is particular to endpoints.
func Endpoints() rest.Resource[*corev1.Endpoints] {
	return rest.Resource[*corev1.Endpoints]{
		Kind:           corev1.SchemeGroupVersion.WithKind("Endpoints"),
		Plural:         "endpoints",
		Singular:       "endpoints",
		CreateOnUpdate: true,
		Columns:        endpointsColumns(),
		ShortNames:     []string{"ep"},
		Namespaced:     true,
		KeyPrefix:      "services/endpoints",
		Default:        defaultEndpoints,
		Validate:       validateEndpoints,
		ValidateUpdate: validateEndpointsUpdate,
		Warnings:       func(o, _ *corev1.Endpoints) []string { return endpointsWarnings(o) },
	}
}
