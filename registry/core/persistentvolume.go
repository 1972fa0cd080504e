// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PersistentVolumes says what is particular to persistentvolumes.
func PersistentVolumes() rest.Resource[*corev1.PersistentVolume] {
	return rest.Resource[*corev1.PersistentVolume]{
		Kind:                corev1.SchemeGroupVersion.WithKind("PersistentVolume"),
		Plural:              "persistentvolumes",
		Singular:            "persistentvolume",
		Columns:             persistentVolumeColumns(),
		ReturnDeleted:       true,
		ShortNames:          []string{"pv"},
		NoGeneration:        true,
		Fields:              func(o *corev1.PersistentVolume) fields.Set { return fields.Set{"name": o.Name} },
		Default:             defaultPersistentVolume,
		PrepareCreate:       func(_ context.Context, o *corev1.PersistentVolume) { preparePersistentVolumeCreate(o) },
		Validate:            validatePersistentVolume,
		ValidateUpdate:      validatePersistentVolumeUpdate,
		PrepareStatusUpdate: preparePersistentVolumeStatusUpdate,
		ValidateStatus:      validatePersistentVolumeStatusUpdate,
		Warnings:            func(o, _ *corev1.PersistentVolume) []string { return persistentVolumeWarnings(o) },
	}
}
