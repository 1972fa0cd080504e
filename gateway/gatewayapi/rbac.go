// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Account is the service account in kube-system as which the controller acts.
const Account = "gateway-controller"

// Role is what the controller may do, and the binding to its account. It may read no Secret: who runs it gives it a client for
// single ones.
func Role() (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	rule := func(verbs, group, resources string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(resources)}
	}
	name := metav1.ObjectMeta{Name: "skiff:" + Account}
	role := &rbacv1.ClusterRole{ObjectMeta: name, Rules: []rbacv1.PolicyRule{
		rule("get list watch", gatewayv1.GroupName, "*"),
		rule("create", gatewayv1.GroupName, "gatewayclasses"),
		rule("update", gatewayv1.GroupName, "gatewayclasses/status gateways/status listenersets/status httproutes/status grpcroutes/status "+
			"tlsroutes/status tcproutes/status udproutes/status backendtlspolicies/status"),
		rule("create update delete", "", "services"),
		rule("create update", "discovery.k8s.io", "endpointslices"),
	}}
	return role, &rbacv1.ClusterRoleBinding{
		ObjectMeta: name,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name.Name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: Account}},
	}
}
