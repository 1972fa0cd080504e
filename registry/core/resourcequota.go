// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceQuotas says what is particular to resourcequotas.
func ResourceQuotas() rest.Resource[*corev1.ResourceQuota] {
	return rest.Resource[*corev1.ResourceQuota]{
		Kind:           corev1.SchemeGroupVersion.WithKind("ResourceQuota"),
		Plural:         "resourcequotas",
		Singular:       "resourcequota",
		Columns:        resourceQuotaColumns(),
		ReturnDeleted:  true,
		ShortNames:     []string{"quota"},
		Namespaced:     true,
		NoGeneration:   true,
		Default:        defaultResourceQuota,
		Validate:       validateResourceQuota,
		ValidateUpdate: validateResourceQuotaUpdate,
		ValidateStatus: validateResourceQuotaStatusUpdate,
		Warnings:       func(o, _ *corev1.ResourceQuota) []string { return resourceQuotaWarnings(o) },
	}
}
