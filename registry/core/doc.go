// SPDX-License-Identifier: Apache-2.0

// Package core describes the resources of the legacy group: pods, services, nodes and their like.
//
// One file says all that a resource is; longer rules stand beside it in <kind>_rules.go.
package core

import genericrest "k8s.io/apiserver/pkg/registry/rest"

// Deps is what resources of this group need besides their own storage. Each may be missing; then the
// subresources that need it are not served.
type Deps struct {
	// PodConnections serve log, exec, attach, portforward and proxy of pods, by name.
	PodConnections map[string]genericrest.Storage
	// NodeProxy and ServiceProxy serve nodes/proxy and services/proxy.
	NodeProxy, ServiceProxy genericrest.Storage
	// Tokens serves serviceaccounts/token.
	Tokens genericrest.Storage
}
