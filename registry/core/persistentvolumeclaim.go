// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PersistentVolumeClaims says what is particular to persistentvolumeclaims.
func PersistentVolumeClaims() rest.Resource[*corev1.PersistentVolumeClaim] {
	return rest.Resource[*corev1.PersistentVolumeClaim]{
		Kind:                corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"),
		Plural:              "persistentvolumeclaims",
		Singular:            "persistentvolumeclaim",
		Columns:             persistentVolumeClaimColumns(),
		ReturnDeleted:       true,
		ShortNames:          []string{"pvc"},
		Namespaced:          true,
		NoGeneration:        true,
		Fields:              func(o *corev1.PersistentVolumeClaim) fields.Set { return fields.Set{"name": o.Name} },
		Default:             defaultPersistentVolumeClaim,
		PrepareCreate:       func(_ context.Context, o *corev1.PersistentVolumeClaim) { preparePersistentVolumeClaimCreate(o) },
		PrepareUpdate:       preparePersistentVolumeClaimUpdate,
		Validate:            validatePersistentVolumeClaim,
		ValidateUpdate:      validatePersistentVolumeClaimUpdate,
		PrepareStatusUpdate: preparePersistentVolumeClaimStatusUpdate,
		ValidateStatus:      validatePersistentVolumeClaimStatusUpdate,
		Warnings:            func(o, _ *corev1.PersistentVolumeClaim) []string { return persistentVolumeClaimWarnings(o) },
	}
}
