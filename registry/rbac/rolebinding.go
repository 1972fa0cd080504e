// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// RoleBindings says what is particular to rolebindings.
func RoleBindings(deps Deps) rest.Resource[*rbacv1.RoleBinding] {
	return rest.Resource[*rbacv1.RoleBinding]{
		Kind:           rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
		Plural:         "rolebindings",
		Singular:       "rolebinding",
		Permit:         deps.Permit,
		Columns:        roleBindingColumns(),
		Namespaced:     true,
		ValidateName:   path.ValidatePathSegmentName,
		Default:        defaultRoleBinding,
		Validate:       validateRoleBinding,
		ValidateUpdate: validateRoleBindingUpdate,
		CreateOnUpdate: true,
	}
}
