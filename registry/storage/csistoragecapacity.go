// SPDX-License-Identifier: Apache-2.0

package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// CSIStorageCapacities says what is particular to csistoragecapacities.
func CSIStorageCapacities() rest.Resource[*storagev1.CSIStorageCapacity] {
	return rest.Resource[*storagev1.CSIStorageCapacity]{
		Kind:                 storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"),
		Plural:               "csistoragecapacities",
		Singular:             "csistoragecapacity",
		Columns:              rest.NameAndDate[*storagev1.CSIStorageCapacity](),
		Namespaced:           true,
		NeedsResourceVersion: true,
		Validate:             validateCSIStorageCapacity,
		ValidateUpdate:       validateCSIStorageCapacityUpdate,
		Warnings:             csiStorageCapacityWarnings,
	}
}
