// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceClaims says what is particular to resourceclaims.
func ResourceClaims(deps Deps) rest.Resource[*resourcev1.ResourceClaim] {
	return rest.Resource[*resourcev1.ResourceClaim]{
		Kind:                  resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"),
		Plural:                "resourceclaims",
		Singular:              "resourceclaim",
		Columns:               resourceClaimColumns(),
		ReturnDeleted:         true,
		Namespaced:            true,
		NoGeneration:          true,
		StatusKeepsMetadata:   true,
		Default:               defaultClaim,
		PrepareCreate:         func(_ context.Context, c *resourcev1.ResourceClaim) { dropDerivedAttributes(&c.Spec) },
		PrepareUpdate:         func(c, _ *resourcev1.ResourceClaim) { dropDerivedAttributes(&c.Spec) },
		Validate:              validateClaim,
		ValidateUpdate:        validateClaimUpdate,
		ValidateRequest:       deps.permitClaim,
		PrepareStatusUpdate:   prepareClaimStatus,
		ValidateStatus:        validateClaimStatus,
		ValidateStatusRequest: deps.permitClaimStatus,
	}
}
