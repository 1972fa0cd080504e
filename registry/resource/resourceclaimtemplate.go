// SPDX-License-Identifier: Apache-2.0

package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceClaimTemplates says what is particular to resourceclaimtemplates.
func ResourceClaimTemplates(deps Deps) rest.Resource[*resourcev1.ResourceClaimTemplate] {
	return rest.Resource[*resourcev1.ResourceClaimTemplate]{
		Kind:            resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"),
		Plural:          "resourceclaimtemplates",
		Singular:        "resourceclaimtemplate",
		ReturnDeleted:   true,
		Namespaced:      true,
		NoGeneration:    true,
		Default:         defaultClaimTemplate,
		PrepareCreate:   func(_ context.Context, t *resourcev1.ResourceClaimTemplate) { dropDerivedAttributes(&t.Spec.Spec) },
		PrepareUpdate:   func(t, _ *resourcev1.ResourceClaimTemplate) { dropDerivedAttributes(&t.Spec.Spec) },
		Validate:        validateClaimTemplate,
		ValidateUpdate:  validateClaimTemplateUpdate,
		ValidateRequest: deps.permitClaimTemplate,
	}
}
