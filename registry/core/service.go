// SPDX-License-Identifier: Apache-2.0

package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	genericrest "k8s.io/apiserver/pkg/registry/rest"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Services says what is particular to services.
func Services(deps Deps) rest.Resource[*corev1.Service] {
	return rest.Resource[*corev1.Service]{
		Kind:                corev1.SchemeGroupVersion.WithKind("Service"),
		Plural:              "services",
		Singular:            "service",
		ShortNames:          []string{"svc"},
		Categories:          []string{"all"},
		Namespaced:          true,
		KeyPrefix:           "services/specs",
		Default:             defaultService,
		PrepareCreate:       func(_ context.Context, o *corev1.Service) { prepareServiceCreate(o) },
		PrepareUpdate:       prepareServiceUpdate,
		Validate:            validateService,
		ValidateUpdate:      validateServiceUpdate,
		PrepareStatusUpdate: prepareServiceStatusUpdate,
		ValidateStatus:      validateServiceStatusUpdate,
		Warnings:            func(o, _ *corev1.Service) []string { return serviceWarnings(o) },
		Fields:              serviceFields,
		Subresources: func(*rest.Store, *rest.Store) map[string]genericrest.Storage {
			if deps.ServiceProxy == nil {
				return nil
			}
			return map[string]genericrest.Storage{"proxy": deps.ServiceProxy}
		},
	}
}
