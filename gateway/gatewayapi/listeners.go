// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/table"
)

// The kinds of routes.
const (
	httpRoute = "HTTPRoute"
	grpcRoute = "GRPCRoute"
	tlsRoute  = "TLSRoute"
	tcpRoute  = "TCPRoute"
	udpRoute  = "UDPRoute"
)

// routeKinds are those that listeners of each protocol can take.
var routeKinds = map[gatewayv1.ProtocolType][]string{
	gatewayv1.HTTPProtocolType:  {httpRoute, grpcRoute},
	gatewayv1.HTTPSProtocolType: {httpRoute, grpcRoute},
	gatewayv1.TLSProtocolType:   {tlsRoute},
	gatewayv1.TCPProtocolType:   {tcpRoute},
	gatewayv1.UDPProtocolType:   {udpRoute},
}

// listener is one of a Gateway or of a ListenerSet that is attached to it.
type listener struct {
	gateway *gateway
	owner   metav1.Object // the Gateway or the ListenerSet
	kind    string        // of the owner
	spec    gatewayv1.ListenerEntry

	supported []gatewayv1.RouteGroupKind // the kinds of routes that it takes
	tls       *table.ServerTLS

	accepted, conflicted, resolved, programmed verdict
	overlaps                                   bool // its hostname with another one's, with TLS

	attached map[Route]bool
	routes   []*table.Route
	streams  []*table.Stream
	taken    map[string][]string // the hostnames of attached routes, by their kind
}

func newListener(gw *gateway, owner metav1.Object, kind string, spec gatewayv1.ListenerEntry) *listener {
	l := &listener{gateway: gw, owner: owner, kind: kind, spec: spec, attached: map[Route]bool{}, taken: map[string][]string{}}
	l.accepted = yes(gatewayv1.ListenerReasonAccepted, "The listener is valid")
	l.conflicted = no(gatewayv1.ListenerReasonNoConflicts, "")
	l.resolved = yes(gatewayv1.ListenerReasonResolvedRefs, "All references are resolved")
	l.findKinds()
	return l
}

// unresolved notes a reference that leads nowhere; the first one is the one that is told.
func (l *listener) unresolved(v verdict) {
	if l.resolved.is() {
		l.resolved = v
	}
}

func (l *listener) hostname() string {
	return strings.ToLower(string(ptr.Deref(l.spec.Hostname, "")))
}

func (l *listener) transport() corev1.Protocol {
	if l.spec.Protocol == gatewayv1.UDPProtocolType {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

func (l *listener) socket() Socket {
	return Socket{Gateway: reconcile.KeyOf(l.gateway.object), Port: l.spec.Port, Protocol: l.transport()}
}

// name is unique within the Gateway.
func (l *listener) name() string {
	if l.owner == metav1.Object(l.gateway.object) {
		return string(l.spec.Name)
	}
	return reconcile.KeyOf(l.owner).String() + "/" + string(l.spec.Name)
}

// usable tells whether it can take connections, as far as it depends on what it says.
func (l *listener) usable() bool {
	return l.accepted.is() && !l.conflicted.is() && len(l.supported) > 0 && (!l.needsTLS() || l.tls != nil)
}

func (l *listener) needsTLS() bool {
	return l.spec.Protocol == gatewayv1.HTTPSProtocolType || l.spec.Protocol == gatewayv1.TLSProtocolType
}

func (l *listener) passthrough() bool {
	return l.spec.TLS != nil && ptr.Deref(l.spec.TLS.Mode, gatewayv1.TLSModeTerminate) == gatewayv1.TLSModePassthrough
}

// findKinds finds out which kinds of routes the listener takes.
func (l *listener) findKinds() {
	possible, ok := routeKinds[l.spec.Protocol]
	if !ok {
		l.accepted = no(gatewayv1.ListenerReasonUnsupportedProtocol, fmt.Sprintf("protocol %s is not supported", l.spec.Protocol))
	}
	l.supported = []gatewayv1.RouteGroupKind{}
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		for _, kind := range possible {
			l.supported = append(l.supported, routeGroupKind(kind))
		}
		return
	}
	for _, wanted := range l.spec.AllowedRoutes.Kinds {
		if ptr.Deref(wanted.Group, gatewayv1.GroupName) != gatewayv1.GroupName || !slices.Contains(possible, string(wanted.Kind)) {
			l.unresolved(no(gatewayv1.ListenerReasonInvalidRouteKinds, fmt.Sprintf("%s is not a route for protocol %s", wanted.Kind, l.spec.Protocol)))
			continue
		}
		if kind := routeGroupKind(string(wanted.Kind)); !slices.ContainsFunc(l.supported, func(k gatewayv1.RouteGroupKind) bool { return k.Kind == kind.Kind }) {
			l.supported = append(l.supported, kind)
		}
	}
}

func routeGroupKind(kind string) gatewayv1.RouteGroupKind {
	return gatewayv1.RouteGroupKind{Group: ptr.To(gatewayv1.Group(gatewayv1.GroupName)), Kind: gatewayv1.Kind(kind)}
}

// admits tells whether routes of a kind in a namespace may attach.
func (l *listener) admits(kind, namespace string, objects Objects) bool {
	if !slices.ContainsFunc(l.supported, func(k gatewayv1.RouteGroupKind) bool { return string(k.Kind) == kind }) {
		return false
	}
	from, selector := gatewayv1.NamespacesFromSame, (*metav1.LabelSelector)(nil)
	if allowed := l.spec.AllowedRoutes; allowed != nil && allowed.Namespaces != nil {
		from, selector = ptr.Deref(allowed.Namespaces.From, from), allowed.Namespaces.Selector
	}
	return inNamespaces(from, selector, l.owner.GetNamespace(), namespace, objects)
}

// inNamespaces tells whether a namespace is one of those that are meant from the point of view of another.
func inNamespaces(from gatewayv1.FromNamespaces, selector *metav1.LabelSelector, own, namespace string, objects Objects) bool {
	switch from {
	case gatewayv1.NamespacesFromAll:
		return true
	case gatewayv1.NamespacesFromSame:
		return own == namespace
	case gatewayv1.NamespacesFromSelector:
		s, err := metav1.LabelSelectorAsSelector(selector)
		ns := objects.Namespace(namespace)
		return err == nil && ns != nil && s.Matches(labels.Set(ns.Labels))
	}
	return false
}

// conflict says why two listeners cannot both be; "" if they can.
func conflict(a, b *listener) gatewayv1.ListenerConditionReason {
	if a.spec.Port != b.spec.Port || a.transport() != b.transport() || len(routeKinds[a.spec.Protocol]) == 0 || len(routeKinds[b.spec.Protocol]) == 0 {
		return ""
	}
	switch {
	case sharing(a) != sharing(b):
		return gatewayv1.ListenerReasonProtocolConflict
	case a.hostname() != b.hostname():
		return ""
	case a.spec.Protocol != b.spec.Protocol:
		return gatewayv1.ListenerReasonProtocolConflict
	}
	return gatewayv1.ListenerReasonHostnameConflict
}

// sharing is what listeners must have in common to share a port.
func sharing(l *listener) string {
	switch {
	case l.needsTLS():
		return "told apart by server name"
	case l.spec.Protocol == gatewayv1.HTTPProtocolType:
		return "told apart by host"
	}
	return string(l.spec.Protocol)
}

// findConflicts compares the listeners of a Gateway, given in their order of precedence. Among those in the Gateway itself nobody
// wins; one of a ListenerSet gives way to what comes before.
func findConflicts(all []*listener) {
	for i, l := range all {
		own := l.owner == metav1.Object(l.gateway.object)
		for j, other := range all {
			equals := own && other.owner == l.owner
			if i == j || j > i && !equals || other.conflicted.is() && !equals {
				continue
			}
			if reason := conflict(l, other); reason != "" {
				message := fmt.Sprintf("port %d is taken with the same hostname or by another protocol", l.spec.Port)
				l.conflicted = yes(reason, message)
				l.accepted = no(reason, message)
				break
			}
		}
	}
	for _, l := range all {
		l.overlaps = l.needsTLS() && slices.ContainsFunc(all, func(other *listener) bool {
			if other == l || !other.needsTLS() || other.spec.Port != l.spec.Port {
				return false
			}
			_, ok := table.Intersect(l.hostname(), other.hostname())
			return ok
		})
	}
}

// conditions are what the status says of the listener.
func (l *listener) conditions(now metav1.Time, old []metav1.Condition) []metav1.Condition {
	c := &conditions{generation: l.owner.GetGeneration(), now: now, old: old}
	set(c, gatewayv1.ListenerConditionAccepted, l.accepted)
	set(c, gatewayv1.ListenerConditionConflicted, l.conflicted)
	set(c, gatewayv1.ListenerConditionResolvedRefs, l.resolved)
	set(c, gatewayv1.ListenerConditionProgrammed, l.programmed)
	if l.overlaps {
		set(c, gatewayv1.ListenerConditionOverlappingTLSConfig, yes(gatewayv1.ListenerReasonOverlappingHostnames,
			"Another listener on this port has a hostname in common; clients that reuse connections may be answered with 421"))
	}
	return c.list
}

// program decides whether the listener serves.
func (l *listener) program(failed func(Socket) string) {
	problem := failed(l.socket())
	switch {
	case l.conflicted.is() || !l.accepted.is():
		l.programmed = no(l.accepted.reason, l.accepted.message)
	case !l.gateway.accepted.is():
		l.programmed = no(gatewayv1.ListenerReasonInvalid, "The Gateway is not accepted")
	case !l.usable():
		l.programmed = no(gatewayv1.ListenerReasonInvalid, l.resolved.message)
	case problem != "":
		l.programmed = no(gatewayv1.ListenerReasonPending, problem)
	default:
		l.programmed = yes(gatewayv1.ListenerReasonProgrammed, "The listener serves")
	}
}

// asTable is the listener as the data plane knows it.
func (l *listener) asTable(objects Objects) *table.Listener {
	return &table.Listener{
		Gateway: reconcile.KeyOf(l.gateway.object).String(), Name: l.name(), Bind: objects.Socket(l.socket()), Port: uint16(l.spec.Port),
		Protocol: table.Protocol(l.spec.Protocol), Hostname: l.hostname(), TLS: l.tls, Routes: l.routes, Streams: l.streams,
	}
}
