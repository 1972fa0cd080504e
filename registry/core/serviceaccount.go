// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ServiceAccounts says what is particular to serviceaccounts.
func ServiceAccounts(deps Deps) rest.Resource[*corev1.ServiceAccount] {
	return rest.Resource[*corev1.ServiceAccount]{
		Kind:           corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		Plural:         "serviceaccounts",
		Singular:       "serviceaccount",
		ReturnDeleted:  true,
		ShortNames:     []string{"sa"},
		Namespaced:     true,
		PrepareCreate:  func(_ context.Context, o *corev1.ServiceAccount) { prepareServiceAccount(o) },
		PrepareUpdate:  func(o, _ *corev1.ServiceAccount) { prepareServiceAccount(o) },
		Validate:       validateServiceAccount,
		ValidateUpdate: validateServiceAccountUpdate,
		Warnings:       serviceAccountWarnings,
		Subresources: func(*rest.Store, *rest.Store) map[string]genericrest.Storage {
			if deps.Tokens == nil {
				return nil
			}
			return map[string]genericrest.Storage{"token": deps.Tokens}
		},
	}
}
