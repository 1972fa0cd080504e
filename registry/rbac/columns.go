// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1" // for its words

	"github.com/skiff-k8s/skiff/registry/rest"
)

// What kubectl prints of bindings, in the order and the words of upstream.

func roleBindingColumns() []rest.Column[*rbacv1.RoleBinding] {
	type B = *rbacv1.RoleBinding
	return append([]rest.Column[B]{
		rest.Name[B](),
		rest.Text("Role", rest.Doc(rbacv1beta1.RoleBinding{}, "roleRef"), func(o B) string { return o.RoleRef.Kind + "/" + o.RoleRef.Name }),
		rest.Age[B](),
	}, subjectColumns("roleBinding", func(o B) []rbacv1.Subject { return o.Subjects })...)
}

func clusterRoleBindingColumns() []rest.Column[*rbacv1.ClusterRoleBinding] {
	type B = *rbacv1.ClusterRoleBinding
	return append([]rest.Column[B]{
		rest.Name[B](),
		rest.Text("Role", rest.Doc(rbacv1beta1.ClusterRoleBinding{}, "roleRef"), func(o B) string { return o.RoleRef.Kind + "/" + o.RoleRef.Name }),
		rest.Age[B](),
	}, subjectColumns("clusterRoleBinding", func(o B) []rbacv1.Subject { return o.Subjects })...)
}

// subjectColumns list the subjects of a binding by their kind.
func subjectColumns[T rest.Object](in string, subjects func(T) []rbacv1.Subject) []rest.Column[T] {
	column := func(name, kind string) rest.Column[T] {
		return rest.Text(name, name+" in the "+in, func(o T) string {
			var out []string
			for _, s := range subjects(o) {
				switch {
				case s.Kind != kind:
				case kind == rbacv1.ServiceAccountKind:
					out = append(out, s.Namespace+"/"+s.Name)
				default:
					out = append(out, s.Name)
				}
			}
			return strings.Join(out, ", ")
		}).OnWide()
	}
	return []rest.Column[T]{column("Users", rbacv1.UserKind), column("Groups", rbacv1.GroupKind), column("ServiceAccounts", rbacv1.ServiceAccountKind)}
}
