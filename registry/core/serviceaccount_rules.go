// SPDX-License-Identifier: Apache-2.0

package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skiff-k8s/skiff/registry/rule"
)

const mountableSecretsAnnotation = "kubernetes.io/enforce-mountable-secrets"

// prepareServiceAccount is for create and update: Secrets are named, and are of the same namespace.
func prepareServiceAccount(sa *corev1.ServiceAccount) {
	for i, s := range sa.Secrets {
		sa.Secrets[i] = corev1.ObjectReference{Name: s.Name}
	}
}

func validateServiceAccount(sa *corev1.ServiceAccount) field.ErrorList {
	return rule.ObjectMeta(&sa.ObjectMeta, true, apivalidation.ValidateServiceAccountName)
}

func validateServiceAccountUpdate(sa, _ *corev1.ServiceAccount) field.ErrorList {
	return validateServiceAccount(sa)
}

// serviceAccountWarnings warns whoever adds a deprecated annotation. old is nil on create.
func serviceAccountWarnings(sa, old *corev1.ServiceAccount) []string {
	if old != nil {
		if _, had := old.Annotations[mountableSecretsAnnotation]; had {
			return nil
		}
	}
	if _, has := sa.Annotations[mountableSecretsAnnotation]; !has {
		return nil
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", mountableSecretsAnnotation)}
}
