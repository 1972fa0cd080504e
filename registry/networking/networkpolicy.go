// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// NetworkPolicies says what is particular to networkpolicies.
func NetworkPolicies() rest.Resource[*networkingv1.NetworkPolicy] {
	return rest.Resource[*networkingv1.NetworkPolicy]{
		Kind:           networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"),
		Plural:         "networkpolicies",
		Singular:       "networkpolicy",
		Columns:        networkPolicyColumns(),
		ShortNames:     []string{"netpol"},
		Namespaced:     true,
		Default:        defaultNetworkPolicy,
		Validate:       validateNetworkPolicy,
		ValidateUpdate: validateNetworkPolicyUpdate,
		Warnings:       networkPolicyWarnings,
	}
}
