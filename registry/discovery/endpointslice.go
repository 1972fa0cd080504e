// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"context"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// EndpointSlices says what is particular to endpointslices.
func EndpointSlices() rest.Resource[*discoveryv1.EndpointSlice] {
	return rest.Resource[*discoveryv1.EndpointSlice]{
		Kind:             discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Plural:           "endpointslices",
		Singular:         "endpointslice",
		Columns:          endpointSliceColumns(),
		Namespaced:       true,
		Default:          defaultEndpointSlice,
		PrepareCreate:    func(_ context.Context, o *discoveryv1.EndpointSlice) { prepareEndpointSliceCreate(o) },
		Validate:         validateEndpointSlice,
		ValidateUpdate:   validateEndpointSliceUpdate,
		Warnings:         endpointSliceWarnings,
		PrepareUpdate:    dropTopology,
		GenerationOfSent: true,
		GenerationOf: func(o *discoveryv1.EndpointSlice) any {
			return []any{o.Labels, o.AddressType, o.Endpoints, o.Ports} // all but other metadata
		},
	}
}
