// SPDX-License-Identifier: Apache-2.0

package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Secrets says what is particular to secrets.
func Secrets() rest.Resource[*corev1.Secret] {
	return rest.Resource[*corev1.Secret]{
		Kind:           corev1.SchemeGroupVersion.WithKind("Secret"),
		Plural:         "secrets",
		Singular:       "secret",
		Columns:        secretColumns(),
		Namespaced:     true,
		Default:        defaultSecret,
		Validate:       validateSecret,
		ValidateUpdate: validateSecretUpdate,
		Warnings:       func(o, _ *corev1.Secret) []string { return secretWarnings(o) },
		Fields:         secretFields,
	}
}
