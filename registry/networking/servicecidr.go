// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ServiceCIDRs says what is particular to servicecidrs.
func ServiceCIDRs() rest.Resource[*networkingv1.ServiceCIDR] {
	return rest.Resource[*networkingv1.ServiceCIDR]{
		Kind:                networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"),
		Plural:              "servicecidrs",
		Singular:            "servicecidr",
		Columns:             serviceCIDRColumns(),
		NoGeneration:        true,
		StatusKeepsMetadata: true,
		Validate:            validateServiceCIDR,
		ValidateUpdate:      validateServiceCIDRUpdate,
		ValidateStatus:      validateServiceCIDRStatus,
	}
}
