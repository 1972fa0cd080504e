// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Ingresses says what is particular to ingresses.
func Ingresses() rest.Resource[*networkingv1.Ingress] {
	return rest.Resource[*networkingv1.Ingress]{
		Kind:           networkingv1.SchemeGroupVersion.WithKind("Ingress"),
		Plural:         "ingresses",
		Singular:       "ingress",
		Columns:        ingressColumns(),
		ShortNames:     []string{"ing"},
		Namespaced:     true,
		KeyPrefix:      "ingress",
		Validate:       validateIngress,
		ValidateUpdate: validateIngressUpdate,
		Warnings:       ingressWarnings,
		ValidateStatus: validateIngressStatus,
		StatusWarnings: ingressStatusWarnings,
	}
}
