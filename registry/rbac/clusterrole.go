// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ClusterRoles says what is particular to clusterroles.
func ClusterRoles(deps Deps) rest.Resource[*rbacv1.ClusterRole] {
	return rest.Resource[*rbacv1.ClusterRole]{
		Kind:           rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
		Plural:         "clusterroles",
		Singular:       "clusterrole",
		Permit:         deps.Permit,
		Columns:        rest.NameAndDate[*rbacv1.ClusterRole](),
		ValidateName:   path.ValidatePathSegmentName,
		Validate:       validateClusterRole,
		ValidateUpdate: validateClusterRoleUpdate,
		CreateOnUpdate: true,
	}
}
