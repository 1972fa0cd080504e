// SPDX-License-Identifier: Apache-2.0

package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// CSINodes says what is particular to csinodes.
func CSINodes() rest.Resource[*storagev1.CSINode] {
	return rest.Resource[*storagev1.CSINode]{
		Kind:                 storagev1.SchemeGroupVersion.WithKind("CSINode"),
		Plural:               "csinodes",
		Singular:             "csinode",
		Columns:              csiNodeColumns(),
		ReturnDeleted:        true,
		NeedsResourceVersion: true,
		StatusKeepsMetadata:  true,
		Validate:             validateCSINode,
		ValidateUpdate:       validateCSINodeUpdate,
		PrepareStatusUpdate:  dropStorageHealth,
		ValidateStatus:       validateStorageHealth,
		NoGeneration:         true,
	}
}
