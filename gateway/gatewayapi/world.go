// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// World is all that a decision is made from. Nothing in it is changed.
type World struct {
	Classes      []*gatewayv1.GatewayClass
	Gateways     []*gatewayv1.Gateway
	ListenerSets []*gatewayv1.ListenerSet
	HTTPRoutes   []*gatewayv1.HTTPRoute
	GRPCRoutes   []*gatewayv1.GRPCRoute
	TLSRoutes    []*gatewayv1.TLSRoute
	TCPRoutes    []*gatewayv1.TCPRoute
	UDPRoutes    []*gatewayv1.UDPRoute
	Grants       []*gatewayv1.ReferenceGrant
	Policies     []*gatewayv1.BackendTLSPolicy

	// The rest is asked for by name. What does not exist is nil.
	Objects Objects
}

// Objects finds what Gateways and Routes refer to.
type Objects interface {
	Namespace(name string) *corev1.Namespace
	Service(name types.NamespacedName) *corev1.Service
	Endpoints(service types.NamespacedName) []*discoveryv1.EndpointSlice
	Secret(name types.NamespacedName) *corev1.Secret
	ConfigMap(name types.NamespacedName) *corev1.ConfigMap

	// Exposed is what is known of a Gateway's Service.
	Exposed(gateway types.NamespacedName) Exposure
	// Socket is where the data plane listens for a port of a Gateway; not valid if there is none yet.
	Socket(Socket) netip.AddrPort
}

// Socket is one port of a Gateway.
type Socket struct {
	Gateway  types.NamespacedName
	Port     int32
	Protocol corev1.Protocol
}

// Exposure is how a Gateway can be reached.
type Exposure struct {
	// Addresses are those of its Service, best first.
	Addresses []netip.Addr
	// Problem says why a requested address cannot be had; "" if it can.
	Problem string
}

// byAge orders objects as the Gateway API does where they conflict: the oldest first, then by name.
func byAge[T metav1.Object](objects []T) []T {
	return slices.SortedFunc(slices.Values(objects), reconcile.OlderFirst)
}
