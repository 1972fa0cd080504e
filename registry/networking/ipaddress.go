// SPDX-License-Identifier: Apache-2.0

package networking

import (
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// IPAddresses says what is particular to ipaddresses.
func IPAddresses() rest.Resource[*networkingv1.IPAddress] {
	return rest.Resource[*networkingv1.IPAddress]{
		Kind:           networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
		Plural:         "ipaddresses",
		Singular:       "ipaddress",
		Columns:        ipAddressColumns(),
		ShortNames:     []string{"ip"},
		NoGeneration:   true,
		ValidateName:   validateIPAddressName,
		Validate:       validateIPAddress,
		ValidateUpdate: validateIPAddressUpdate,
	}
}
