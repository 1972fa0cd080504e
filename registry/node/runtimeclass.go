// SPDX-License-Identifier: Apache-2.0

package node

import (
	nodev1 "k8s.io/api/node/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// RuntimeClasses says what is particular to runtimeclasses.
func RuntimeClasses() rest.Resource[*nodev1.RuntimeClass] {
	return rest.Resource[*nodev1.RuntimeClass]{
		Kind:                 nodev1.SchemeGroupVersion.WithKind("RuntimeClass"),
		Plural:               "runtimeclasses",
		Singular:             "runtimeclass",
		NeedsResourceVersion: true,
		CreateOnUpdate:       true,
		Columns:              runtimeClassColumns(),
		Default:              defaultRuntimeClass,
		Validate:             validateRuntimeClass,
		ValidateUpdate:       validateRuntimeClassUpdate,
		Warnings:             runtimeClassWarnings,
	}
}
