// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ServiceAccounts says what is particular to serviceaccounts.
func ServiceAccounts() rest.Resource[*corev1.ServiceAccount] {
	return rest.Resource[*corev1.ServiceAccount]{
		Kind:       corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		Plural:     "serviceaccounts",
		Singular:   "serviceaccount",
		ShortNames: []string{"sa"},
		Namespaced: true,
	}
}
