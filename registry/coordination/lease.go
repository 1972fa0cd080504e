// SPDX-License-Identifier: Apache-2.0

package coordination

import (
	"context"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Leases says what is particular to leases.
func Leases() rest.Resource[*coordinationv1.Lease] {
	return rest.Resource[*coordinationv1.Lease]{
		Kind:                 coordinationv1.SchemeGroupVersion.WithKind("Lease"),
		Plural:               "leases",
		Singular:             "lease",
		NeedsResourceVersion: true,
		Columns:              leaseColumns(),
		Namespaced:           true,
		NoGeneration:         true,
		CreateOnUpdate:       true,
		PrepareCreate:        func(_ context.Context, o *coordinationv1.Lease) { prepareLeaseCreate(o) },
		PrepareUpdate:        prepareLeaseUpdate,
		Validate:             validateLease,
		ValidateUpdate:       validateLeaseUpdate,
	}
}
