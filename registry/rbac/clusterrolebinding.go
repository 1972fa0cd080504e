// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// ClusterRoleBindings says what is particular to clusterrolebindings.
func ClusterRoleBindings(deps Deps) rest.Resource[*rbacv1.ClusterRoleBinding] {
	return rest.Resource[*rbacv1.ClusterRoleBinding]{
		Kind:           rbacv1.SchemeGroupVersion.WithKind("ClusterRoleBinding"),
		Plural:         "clusterrolebindings",
		Singular:       "clusterrolebinding",
		Permit:         deps.Permit,
		Columns:        clusterRoleBindingColumns(),
		ValidateName:   path.ValidatePathSegmentName,
		Default:        defaultClusterRoleBinding,
		Validate:       validateClusterRoleBinding,
		ValidateUpdate: validateClusterRoleBindingUpdate,
		CreateOnUpdate: true,
	}
}
