// SPDX-License-Identifier: Apache-2.0

package storagemigration

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// StorageVersionMigrations says what is particular to storageversionmigrations.
func StorageVersionMigrations() rest.Resource[*storagemigrationv1.StorageVersionMigration] {
	return rest.Resource[*storagemigrationv1.StorageVersionMigration]{
		Kind:                 storagemigrationv1.SchemeGroupVersion.WithKind("StorageVersionMigration"),
		Plural:               "storageversionmigrations",
		Singular:             "storageversionmigration",
		Columns:              storageVersionMigrationColumns(),
		NoGeneration:         true,
		NeedsResourceVersion: true,
		StatusKeepsMetadata:  true,
		Validate:             validateMigration,
		ValidateUpdate:       validateMigrationUpdate,
		ValidateStatus:       validateMigrationStatus,
	}
}
