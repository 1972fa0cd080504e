// SPDX-License-Identifier: Apache-2.0

package discovery

import discoveryv1 "k8s.io/api/discovery/v1"

// endpointSliceGeneration is all but metadata, which has no generation of its own to count.
func endpointSliceGeneration(o *discoveryv1.EndpointSlice) any {
	return []any{o.AddressType, o.Endpoints, o.Ports, o.Labels, o.Annotations}
}
