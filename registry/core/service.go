// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Services says what is particular to services.
func Services() rest.Resource[*corev1.Service] {
	return rest.Resource[*corev1.Service]{
		Kind:       corev1.SchemeGroupVersion.WithKind("Service"),
		Plural:     "services",
		Singular:   "service",
		ShortNames: []string{"svc"},
		Categories: []string{"all"},
		Namespaced: true,
		KeyPrefix:  "services/specs",
		Fields: func(o *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": o.Spec.ClusterIP, "spec.type": string(o.Spec.Type)}
		},
	}
}
