// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Pods says what is particular to pods.
func Pods() rest.Resource[*corev1.Pod] {
	return rest.Resource[*corev1.Pod]{
		Kind:          corev1.SchemeGroupVersion.WithKind("Pod"),
		Plural:        "pods",
		Singular:      "pod",
		ShortNames:    []string{"po"},
		Categories:    []string{"all"},
		Namespaced:    true,
		Fields:        podFields,
		IndexedFields: []string{"spec.nodeName"},
	}
}
