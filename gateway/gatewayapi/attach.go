// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/table"
)

// route is a route of any kind, as far as its attachment to listeners goes.
type route struct {
	kind      string
	object    metav1.Object
	parents   []gatewayv1.ParentReference
	hostnames []string // none: all
	old       []gatewayv1.RouteParentStatus
	// translate makes what the data plane gets, for a Gateway. unsupported: the route asks for what we cannot do.
	translate func(d *decision, gw *gateway) translation
}

// translation is a route as the data plane sees it. Hostnames are filled in for each listener.
type translation struct {
	rules       []*table.Rule   // of HTTP and gRPC
	backends    []table.Backend // of the others
	resolved    verdict
	unsupported string // why the route as a whole cannot be served
}

// parent is a Gateway or ListenerSet that a route refers to.
type parent struct {
	gateway   *gateway
	listeners []*listener
	absent    bool // it is not part of its Gateway
}

// attachRoutes attaches all routes, the oldest first, and writes down how that went.
func (d *decision) attachRoutes() {
	for _, r := range d.allRoutes() {
		translations := map[*gateway]translation{}
		var statuses []gatewayv1.RouteParentStatus
		for _, ref := range r.parents {
			p := d.parent(ref, r.object.GetNamespace())
			if p == nil {
				continue
			}
			t, ok := translations[p.gateway]
			if !ok {
				t = r.translate(d, p.gateway)
				translations[p.gateway] = t
			}
			statuses = append(statuses, d.attach(r, ref, p, t))
		}
		d.routeStatus[Route{r.kind, reconcile.KeyOf(r.object)}] = statuses
	}
}

// parent finds what a route refers to; nil if it is not ours.
func (d *decision) parent(ref gatewayv1.ParentReference, namespace string) *parent {
	name := types.NamespacedName{Namespace: string(ptr.Deref(ref.Namespace, gatewayv1.Namespace(namespace))), Name: string(ref.Name)}
	if ptr.Deref(ref.Group, gatewayv1.GroupName) != gatewayv1.GroupName {
		return nil
	}
	switch ptr.Deref(ref.Kind, gatewayKind) {
	case gatewayKind:
		if gw := d.gateways[name]; gw != nil {
			return &parent{gateway: gw, listeners: gw.own}
		}
	case listenerSetKind:
		if s := d.sets[name]; s != nil {
			return &parent{gateway: s.gateway, listeners: s.listeners, absent: !s.allowed}
		}
	}
	return nil
}

// attach attaches a route to the listeners of a parent, and tells the outcome.
func (d *decision) attach(r *route, ref gatewayv1.ParentReference, p *parent, t translation) gatewayv1.RouteParentStatus {
	accepted := d.tryAttach(r, ref, p, t)
	var old []metav1.Condition
	for _, o := range r.old {
		if o.ControllerName == ControllerName && sameParent(o.ParentRef, ref) {
			old = o.Conditions
		}
	}
	c := &conditions{generation: r.object.GetGeneration(), now: d.now, old: old}
	set(c, gatewayv1.RouteConditionAccepted, accepted)
	set(c, gatewayv1.RouteConditionResolvedRefs, t.resolved)
	return gatewayv1.RouteParentStatus{ParentRef: ref, ControllerName: ControllerName, Conditions: c.list}
}

func sameParent(a, b gatewayv1.ParentReference) bool {
	return ptr.Deref(a.Group, gatewayv1.GroupName) == ptr.Deref(b.Group, gatewayv1.GroupName) && ptr.Deref(a.Kind, gatewayKind) == ptr.Deref(b.Kind, gatewayKind) &&
		ptr.Equal(a.Namespace, b.Namespace) && a.Name == b.Name && ptr.Equal(a.SectionName, b.SectionName) && ptr.Equal(a.Port, b.Port)
}

func (d *decision) tryAttach(r *route, ref gatewayv1.ParentReference, p *parent, t translation) verdict {
	meant := slices.DeleteFunc(slices.Clone(p.listeners), func(l *listener) bool {
		return ref.SectionName != nil && *ref.SectionName != l.spec.Name || ref.Port != nil && *ref.Port != l.spec.Port
	})
	if len(meant) == 0 {
		return no(gatewayv1.RouteReasonNoMatchingParent, "the parent has no listener of that name and port")
	}
	if p.absent {
		return no(gatewayv1.RouteReasonNoMatchingParent, "the ListenerSet does not belong to a Gateway")
	}
	admitting := slices.DeleteFunc(meant, func(l *listener) bool { return !l.admits(r.kind, r.object.GetNamespace(), d.world.Objects) })
	if len(admitting) == 0 {
		return no(gatewayv1.RouteReasonNotAllowedByListeners, fmt.Sprintf("no listener admits a %s from namespace %s", r.kind, r.object.GetNamespace()))
	}
	if t.unsupported != "" {
		return no(gatewayv1.RouteReasonUnsupportedValue, t.unsupported)
	}
	attached, matched := false, false
	for _, l := range admitting {
		hostnames := intersect(l.hostname(), r.hostnames)
		if len(hostnames) == 0 {
			continue
		}
		matched = true
		if !l.free(r.kind, hostnames) {
			continue
		}
		attached = true
		l.attach(r, hostnames, t)
	}
	switch {
	case attached:
		return yes(gatewayv1.RouteReasonAccepted, "The route is attached")
	case matched:
		return no(reasonHostnameConflict, "an older route of another kind has the same hostname on the listener")
	}
	return no(gatewayv1.RouteReasonNoMatchingListenerHostname, "no listener has a hostname in common with the route")
}

// reasonHostnameConflict is why an HTTPRoute or GRPCRoute gives way to one of the other kind. The API names no reason for it.
const reasonHostnameConflict gatewayv1.RouteConditionReason = "HostnameConflict"

// intersect narrows hostnames of a route to those of a listener. "" is all.
func intersect(listener string, hostnames []string) []string {
	if len(hostnames) == 0 {
		return []string{listener}
	}
	var out []string
	for _, h := range hostnames {
		if both, ok := table.Intersect(listener, h); ok && !slices.Contains(out, both) {
			out = append(out, both)
		}
	}
	return out
}

// free tells whether none of the hostnames is taken by a route of the other kind: HTTP and gRPC exclude each other.
func (l *listener) free(kind string, hostnames []string) bool {
	other := map[string]string{httpRoute: grpcRoute, grpcRoute: httpRoute}[kind]
	return !slices.ContainsFunc(l.taken[other], func(taken string) bool {
		return slices.ContainsFunc(hostnames, func(h string) bool {
			_, both := table.Intersect(taken, h)
			return both
		})
	})
}

// attach hands a route to the data plane, once however many references lead here.
func (l *listener) attach(r *route, hostnames []string, t translation) {
	key := Route{r.kind, reconcile.KeyOf(r.object)}
	if l.attached[key] {
		return
	}
	l.attached[key] = true
	l.taken[r.kind] = append(l.taken[r.kind], hostnames...)
	name := reconcile.KeyOf(r.object).String()
	switch r.kind {
	case httpRoute, grpcRoute:
		l.routes = append(l.routes, &table.Route{
			Name: name, Created: r.object.GetCreationTimestamp().Time, Hostnames: hostnames, GRPC: r.kind == grpcRoute, Rules: t.rules,
		})
	default:
		l.streams = append(l.streams, &table.Stream{Name: name, Hostnames: hostnames, Backends: t.backends})
	}
}

// allRoutes are the routes of all kinds, the oldest first.
func (d *decision) allRoutes() []*route {
	byObject := map[metav1.Object]*route{}
	var objects []metav1.Object
	add := func(r *route) {
		byObject[r.object] = r
		objects = append(objects, r.object)
	}
	for _, o := range d.world.HTTPRoutes {
		add(&route{kind: httpRoute, object: o, parents: o.Spec.ParentRefs, hostnames: lower(o.Spec.Hostnames), old: o.Status.Parents,
			translate: func(d *decision, gw *gateway) translation { return d.http(gw, o) }})
	}
	for _, o := range d.world.GRPCRoutes {
		add(&route{kind: grpcRoute, object: o, parents: o.Spec.ParentRefs, hostnames: lower(o.Spec.Hostnames), old: o.Status.Parents,
			translate: func(d *decision, gw *gateway) translation { return d.grpc(gw, o) }})
	}
	for _, o := range d.world.TLSRoutes {
		var refs []gatewayv1.BackendRef
		for _, rule := range o.Spec.Rules {
			refs = append(refs, rule.BackendRefs...)
		}
		add(&route{kind: tlsRoute, object: o, parents: o.Spec.ParentRefs, hostnames: lower(o.Spec.Hostnames), old: o.Status.Parents,
			translate: func(d *decision, gw *gateway) translation { return d.stream(gw, tlsRoute, o, refs) }})
	}
	for _, o := range d.world.TCPRoutes {
		var refs []gatewayv1.BackendRef
		for _, rule := range o.Spec.Rules {
			refs = append(refs, rule.BackendRefs...)
		}
		add(&route{kind: tcpRoute, object: o, parents: o.Spec.ParentRefs, old: o.Status.Parents,
			translate: func(d *decision, gw *gateway) translation { return d.stream(gw, tcpRoute, o, refs) }})
	}
	for _, o := range d.world.UDPRoutes {
		var refs []gatewayv1.BackendRef
		for _, rule := range o.Spec.Rules {
			refs = append(refs, rule.BackendRefs...)
		}
		add(&route{kind: udpRoute, object: o, parents: o.Spec.ParentRefs, old: o.Status.Parents,
			translate: func(d *decision, gw *gateway) translation { return d.stream(gw, udpRoute, o, refs) }})
	}
	var out []*route
	for _, o := range byAge(objects) {
		out = append(out, byObject[o])
	}
	return out
}

func lower(hostnames []gatewayv1.Hostname) []string {
	var out []string
	for _, h := range hostnames {
		out = append(out, strings.ToLower(string(h)))
	}
	return out
}
