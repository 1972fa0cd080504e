// SPDX-License-Identifier: Apache-2.0

package resource

import (
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ResourceClaimTemplates says what is particular to resourceclaimtemplates.
func ResourceClaimTemplates() rest.Resource[*resourcev1.ResourceClaimTemplate] {
	return rest.Resource[*resourcev1.ResourceClaimTemplate]{
		Kind:          resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"),
		Plural:        "resourceclaimtemplates",
		Singular:      "resourceclaimtemplate",
		ReturnDeleted: true,
		Namespaced:    true,
		NoGeneration:  true,
	}
}
