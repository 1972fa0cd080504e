// SPDX-License-Identifier: Apache-2.0

package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// CSIDrivers says what is particular to csidrivers.
func CSIDrivers() rest.Resource[*storagev1.CSIDriver] {
	return rest.Resource[*storagev1.CSIDriver]{
		Kind:                 storagev1.SchemeGroupVersion.WithKind("CSIDriver"),
		Plural:               "csidrivers",
		Singular:             "csidriver",
		Columns:              csiDriverColumns(),
		ReturnDeleted:        true,
		NeedsResourceVersion: true,
		Default:              defaultCSIDriver,
		Validate:             validateCSIDriver,
		ValidateUpdate:       validateCSIDriverUpdate,
		Warnings:             csiDriverWarnings,
		GenerationAsSent:     true,
	}
}
