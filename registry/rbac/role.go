// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// Roles says what is particular to roles.
func Roles(deps Deps) rest.Resource[*rbacv1.Role] {
	return rest.Resource[*rbacv1.Role]{
		Kind:           rbacv1.SchemeGroupVersion.WithKind("Role"),
		Plural:         "roles",
		Singular:       "role",
		Permit:         deps.Permit,
		Columns:        rest.NameAndDate[*rbacv1.Role](),
		Namespaced:     true,
		ValidateName:   path.ValidatePathSegmentName,
		Validate:       validateRole,
		CreateOnUpdate: true,
	}
}
