// SPDX-License-Identifier: Apache-2.0

package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// StorageClasses says what is particular to storageclasses.
func StorageClasses() rest.Resource[*storagev1.StorageClass] {
	return rest.Resource[*storagev1.StorageClass]{
		Kind:           storagev1.SchemeGroupVersion.WithKind("StorageClass"),
		Plural:         "storageclasses",
		Singular:       "storageclass",
		Columns:        storageClassColumns(),
		ListName:       defaultClass,
		ReturnDeleted:  true,
		Default:        defaultStorageClass,
		Validate:       validateStorageClass,
		ValidateUpdate: validateStorageClassUpdate,
		Warnings:       storageClassWarnings,
		ShortNames:     []string{"sc"},
	}
}
