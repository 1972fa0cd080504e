// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// PodTemplates says what is particular to podtemplates.
func PodTemplates() rest.Resource[*corev1.PodTemplate] {
	return rest.Resource[*corev1.PodTemplate]{
		Kind:           corev1.SchemeGroupVersion.WithKind("PodTemplate"),
		Plural:         "podtemplates",
		Singular:       "podtemplate",
		Columns:        podTemplateColumns(),
		ReturnDeleted:  true,
		Namespaced:     true,
		Default:        defaultPodTemplate,
		PrepareCreate:  func(_ context.Context, o *corev1.PodTemplate) { preparePodTemplateCreate(o) },
		PrepareUpdate:  preparePodTemplateUpdate,
		Validate:       validatePodTemplate,
		ValidateUpdate: validatePodTemplateUpdate,
		GenerationOf:   func(o *corev1.PodTemplate) any { return o.Template },
		Warnings:       func(o, _ *corev1.PodTemplate) []string { return podTemplateWarnings(o) },
	}
}
