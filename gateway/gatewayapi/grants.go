// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// reference is from one object to another.
type reference struct {
	fromGroup, fromKind, fromNamespace string
	group, kind, namespace, name       string
}

// permitted tells whether a reference may be followed: within its namespace always, into another one if a ReferenceGrant
// there says so.
func permitted(grants []*gatewayv1.ReferenceGrant, r reference) bool {
	if r.fromNamespace == r.namespace {
		return true
	}
	return slices.ContainsFunc(grants, func(grant *gatewayv1.ReferenceGrant) bool {
		return grant.Namespace == r.namespace &&
			slices.ContainsFunc(grant.Spec.From, func(from gatewayv1.ReferenceGrantFrom) bool {
				return string(from.Group) == r.fromGroup && string(from.Kind) == r.fromKind && string(from.Namespace) == r.fromNamespace
			}) &&
			slices.ContainsFunc(grant.Spec.To, func(to gatewayv1.ReferenceGrantTo) bool {
				return string(to.Group) == r.group && string(to.Kind) == r.kind && (to.Name == nil || string(*to.Name) == r.name)
			})
	})
}
