// SPDX-License-Identifier: Apache-2.0

package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceClaims says what is particular to resourceclaims.
func ResourceClaims() rest.Resource[*resourcev1.ResourceClaim] {
	return rest.Resource[*resourcev1.ResourceClaim]{
		Kind:          resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"),
		Plural:        "resourceclaims",
		Singular:      "resourceclaim",
		Columns:       resourceClaimColumns(),
		ReturnDeleted: true,
		Namespaced:    true,
		NoGeneration:  true,
	}
}
