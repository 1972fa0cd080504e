// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	rbacv1 "k8s.io/api/rbac/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/role"
)

// Account is the service account in kube-system as which the controller acts.
const Account = "gateway-controller"

// Role is what the controller may do, and the binding to its account. It may read no Secret: who runs it gives it a client for
// single ones.
func Role() (*rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding) {
	return role.New(Account,
		role.Rule("get list watch", gatewayv1.GroupName, "*"),
		role.Rule("create update", gatewayv1.GroupName, "gatewayclasses"),
		role.Rule("update", gatewayv1.GroupName, "gatewayclasses/status gateways/status listenersets/status httproutes/status grpcroutes/status "+
			"tlsroutes/status tcproutes/status udproutes/status backendtlspolicies/status"),
		role.Rule("create update delete", "", "services"),
		role.Rule("create update", "discovery.k8s.io", "endpointslices"),
	)
}
