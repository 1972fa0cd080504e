// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Namespaces says what is particular to namespaces.
func Namespaces() rest.Resource[*corev1.Namespace] {
	return rest.Resource[*corev1.Namespace]{
		Kind:         corev1.SchemeGroupVersion.WithKind("Namespace"),
		Plural:       "namespaces",
		Singular:     "namespace",
		ShortNames:   []string{"ns"},
		NoGeneration: true,
		Fields: func(o *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(o.Status.Phase), "name": o.Name}
		},
	}
}
