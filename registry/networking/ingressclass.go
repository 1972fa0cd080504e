// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// IngressClasses says what is particular to ingressclasses.
func IngressClasses() rest.Resource[*networkingv1.IngressClass] {
	return rest.Resource[*networkingv1.IngressClass]{
		Kind:           networkingv1.SchemeGroupVersion.WithKind("IngressClass"),
		Plural:         "ingressclasses",
		Singular:       "ingressclass",
		Columns:        ingressClassColumns(),
		Default:        defaultIngressClass,
		Validate:       validateIngressClass,
		ValidateUpdate: validateIngressClassUpdate,
	}
}
