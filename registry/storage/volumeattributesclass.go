// SPDX-License-Identifier: Apache-2.0

package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// VolumeAttributesClasses says what is particular to volumeattributesclasses.
func VolumeAttributesClasses() rest.Resource[*storagev1.VolumeAttributesClass] {
	return rest.Resource[*storagev1.VolumeAttributesClass]{
		Kind:           storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"),
		Plural:         "volumeattributesclasses",
		Singular:       "volumeattributesclass",
		Columns:        volumeAttributesClassColumns(),
		ReturnDeleted:  true,
		Validate:       validateVolumeAttributesClass,
		ValidateUpdate: validateVolumeAttributesClassUpdate,
		ShortNames:     []string{"vac"},
	}
}
