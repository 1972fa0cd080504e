// SPDX-License-Identifier: Apache-2.0

package storage

import (
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// VolumeAttachments says what is particular to volumeattachments.
func VolumeAttachments() rest.Resource[*storagev1.VolumeAttachment] {
	return rest.Resource[*storagev1.VolumeAttachment]{
		Kind:                 storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"),
		Plural:               "volumeattachments",
		Singular:             "volumeattachment",
		Columns:              volumeAttachmentColumns(),
		ReturnDeleted:        true,
		NeedsResourceVersion: true,
		StatusKeepsMetadata:  true,
		Default:              defaultVolumeAttachment,
		Validate:             validateVolumeAttachment,
		ValidateUpdate:       validateVolumeAttachmentUpdate,
		ValidateStatus:       validateVolumeAttachmentUpdate,
		NoGeneration:         true,
	}
}
