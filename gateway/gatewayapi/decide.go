// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/table"
)

// The kinds of parents.
const (
	gatewayKind     = "Gateway"
	listenerSetKind = "ListenerSet"
)

// Outcome is what follows from a World.
type Outcome struct {
	Table *table.Table
	// Expose are the ports that each Gateway of ours wants to be reached at. Gateways that are not accepted want none.
	Expose map[types.NamespacedName][]Socket

	// The statuses of all objects that concern us. Those of routes and policies hold our part only.
	Classes      map[string][]metav1.Condition
	Gateways     map[types.NamespacedName]gatewayv1.GatewayStatus
	ListenerSets map[types.NamespacedName]gatewayv1.ListenerSetStatus
	Routes       map[Route][]gatewayv1.RouteParentStatus
	Policies     map[types.NamespacedName][]gatewayv1.PolicyAncestorStatus
}

// Route names a route of any kind.
type Route struct {
	Kind string
	types.NamespacedName
}

// decision is the work on one Outcome.
type decision struct {
	world World
	now   metav1.Time
	memo  *memo
	// failed says why the data plane does not listen for a socket; "" if it does.
	failed func(Socket) string

	classes      map[gatewayv1.ObjectName]bool // of ours
	gateways     map[types.NamespacedName]*gateway
	sets         map[types.NamespacedName]*listenerSet // those that belong to a Gateway of ours
	policies     map[target]*policy
	allPolicies  []*policy
	contenders   []contender
	services     map[string]*table.Service
	ordered      []*gateway
	orderedSets  []*listenerSet
	routeStatus  map[Route][]gatewayv1.RouteParentStatus
	classResults map[string][]metav1.Condition
}

// gateway is a Gateway of ours.
type gateway struct {
	object    *gatewayv1.Gateway
	exposure  Exposure
	accepted  verdict
	resolved  verdict
	own       []*listener
	listeners []*listener // own, then those of ListenerSets
	sets      int32       // how many of the latter there are

	client *tls.Certificate // shown to backends
}

// listenerSet is a ListenerSet whose Gateway is ours.
type listenerSet struct {
	object    *gatewayv1.ListenerSet
	gateway   *gateway
	allowed   bool
	listeners []*listener
}

// decide works out what the World means.
func decide(world World, now metav1.Time, memo *memo, bundle string, failed func(Socket) string) *Outcome {
	memo.next()
	d := &decision{
		world: world, now: now, memo: memo, failed: failed,
		classes: map[gatewayv1.ObjectName]bool{}, gateways: map[types.NamespacedName]*gateway{}, sets: map[types.NamespacedName]*listenerSet{},
		services: map[string]*table.Service{}, routeStatus: map[Route][]gatewayv1.RouteParentStatus{}, classResults: map[string][]metav1.Condition{},
	}
	d.findClasses(bundle)
	d.findGateways()
	d.findListenerSets()
	d.findPolicies()
	for _, gw := range d.ordered {
		findConflicts(gw.listeners)
		for _, l := range gw.listeners {
			d.secure(l)
		}
		gw.judge()
	}
	d.attachRoutes()
	for _, gw := range d.ordered {
		for _, l := range gw.listeners {
			l.program(failed)
		}
	}
	return d.outcome()
}

func (d *decision) findClasses(bundle string) {
	for _, class := range d.world.Classes {
		if class.Spec.ControllerName != ControllerName {
			continue
		}
		c := &conditions{generation: class.Generation, now: d.now, old: class.Status.Conditions}
		if class.Spec.ParametersRef != nil {
			set(c, gatewayv1.GatewayClassConditionStatusAccepted, no(gatewayv1.GatewayClassReasonInvalidParameters, "parameters are not supported"))
		} else {
			d.classes[gatewayv1.ObjectName(class.Name)] = true
			set(c, gatewayv1.GatewayClassConditionStatusAccepted, yes(gatewayv1.GatewayClassReasonAccepted, "Skiff serves Gateways of this class"))
		}
		supported := yes(gatewayv1.GatewayClassReasonSupportedVersion, "The Gateway API is installed in version "+bundle)
		if !supportedBundle(bundle) {
			supported = no(gatewayv1.GatewayClassReasonUnsupportedVersion,
				fmt.Sprintf("The Gateway API is installed in version %q; made for are versions from v1.5 on, and served is what this one has of them", bundle))
		}
		set(c, gatewayv1.GatewayClassConditionStatusSupportedVersion, supported)
		d.classResults[class.Name] = c.list
	}
}

// supportedBundle tells whether the API's objects mean what they mean here.
func supportedBundle(version string) bool {
	for _, prefix := range []string{"v1.5.", "v1.6."} {
		if strings.HasPrefix(version, prefix) {
			return true
		}
	}
	return false
}

func (d *decision) findGateways() {
	for _, object := range byAge(d.world.Gateways) {
		if !d.classes[object.Spec.GatewayClassName] {
			continue
		}
		gw := &gateway{object: object, exposure: d.world.Objects.Exposed(reconcile.KeyOf(object))}
		gw.accepted = yes(gatewayv1.GatewayReasonAccepted, "The Gateway is valid")
		gw.resolved = yes(gatewayv1.GatewayReasonResolvedRefs, "All references are resolved")
		for _, l := range object.Spec.Listeners {
			gw.own = append(gw.own, newListener(gw, object, gatewayKind, gatewayv1.ListenerEntry(l)))
		}
		gw.listeners = slices.Clone(gw.own)
		d.findClientCertificate(gw)
		d.gateways[reconcile.KeyOf(object)] = gw
		d.ordered = append(d.ordered, gw)
	}
}

// findListenerSets attaches ListenerSets to Gateways that allow it.
func (d *decision) findListenerSets() {
	for _, object := range byAge(d.world.ListenerSets) {
		ref := object.Spec.ParentRef
		if ptr.Deref(ref.Group, gatewayv1.GroupName) != gatewayv1.GroupName || ptr.Deref(ref.Kind, gatewayKind) != gatewayKind {
			continue
		}
		gw := d.gateways[types.NamespacedName{Namespace: string(ptr.Deref(ref.Namespace, gatewayv1.Namespace(object.Namespace))), Name: string(ref.Name)}]
		if gw == nil {
			continue
		}
		s := &listenerSet{object: object, gateway: gw, allowed: gw.allows(object, d.world.Objects)}
		for _, entry := range object.Spec.Listeners {
			s.listeners = append(s.listeners, newListener(gw, object, listenerSetKind, entry))
		}
		d.orderedSets = append(d.orderedSets, s)
		d.sets[reconcile.KeyOf(object)] = s
		if s.allowed {
			gw.listeners = append(gw.listeners, s.listeners...)
		}
	}
}

// allows tells whether a ListenerSet may belong to the Gateway.
func (gw *gateway) allows(set *gatewayv1.ListenerSet, objects Objects) bool {
	allowed := gw.object.Spec.AllowedListeners
	if allowed == nil || allowed.Namespaces == nil {
		return false
	}
	from := ptr.Deref(allowed.Namespaces.From, gatewayv1.NamespacesFromNone)
	return inNamespaces(from, allowed.Namespaces.Selector, gw.object.Namespace, set.Namespace, objects)
}

// judge decides whether the Gateway is accepted.
func (gw *gateway) judge() {
	spec := gw.object.Spec
	if spec.Infrastructure != nil && spec.Infrastructure.ParametersRef != nil {
		gw.accepted = no(gatewayv1.GatewayReasonInvalidParameters, "parameters are not supported")
		return
	}
	for _, a := range spec.Addresses {
		if kind := ptr.Deref(a.Type, gatewayv1.IPAddressType); kind != gatewayv1.IPAddressType {
			gw.accepted = no(gatewayv1.GatewayReasonUnsupportedAddress, fmt.Sprintf("addresses of type %s are not supported", kind))
			return
		}
	}
	valid, unresolved := 0, false
	for _, l := range gw.own {
		if l.accepted.is() {
			valid++
		}
		unresolved = unresolved || !l.resolved.is()
	}
	if unresolved && gw.resolved.is() {
		gw.resolved = no(gatewayv1.GatewayReasonListenersNotResolved, "some listener has references that are not resolved")
	}
	switch {
	case valid == 0 && len(gw.own) > 0:
		gw.accepted = no(gatewayv1.GatewayReasonListenersNotValid, "no listener is valid")
	case valid < len(gw.own):
		gw.accepted = yes(gatewayv1.GatewayReasonListenersNotValid, "some listeners are not valid")
	}
}

// programmed decides whether the Gateway can be reached.
func (gw *gateway) programmed() verdict {
	serves := slices.ContainsFunc(gw.listeners, func(l *listener) bool { return l.programmed.is() })
	switch {
	case !gw.accepted.is():
		return no(gatewayv1.GatewayReasonInvalid, gw.accepted.message)
	case gw.exposure.Problem != "":
		return no(gatewayv1.GatewayReasonAddressNotUsable, gw.exposure.Problem)
	case !serves:
		return no(gatewayv1.GatewayReasonInvalid, "no listener serves")
	case len(gw.exposure.Addresses) == 0:
		return no(gatewayv1.GatewayReasonAddressNotAssigned, "the Service of the Gateway has no address yet")
	}
	return yes(gatewayv1.GatewayReasonProgrammed, "The Gateway serves")
}

// reference is how statuses of others name the Gateway.
func (gw *gateway) reference() gatewayv1.ParentReference {
	return gatewayv1.ParentReference{
		Group: ptr.To(gatewayv1.Group(gatewayv1.GroupName)), Kind: ptr.To(gatewayv1.Kind(gatewayKind)),
		Namespace: ptr.To(gatewayv1.Namespace(gw.object.Namespace)), Name: gatewayv1.ObjectName(gw.object.Name),
	}
}

// sockets are the ports that the Gateway wants: those of all listeners that are valid. Those whose certificate is missing for now are
// among them, since a Service that comes and goes would lose its addresses.
func (gw *gateway) sockets() []Socket {
	var out []Socket
	if !gw.accepted.is() {
		return nil
	}
	for _, l := range gw.listeners {
		if s := l.socket(); l.accepted.is() && !l.conflicted.is() && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Socket) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	return out
}

func (gw *gateway) status(now metav1.Time) gatewayv1.GatewayStatus {
	old := gw.object.Status
	c := &conditions{generation: gw.object.Generation, now: now, old: old.Conditions}
	set(c, gatewayv1.GatewayConditionAccepted, gw.accepted)
	set(c, gatewayv1.GatewayConditionProgrammed, gw.programmed())
	set(c, gatewayv1.GatewayConditionResolvedRefs, gw.resolved)
	if insecureFallback(gw.object) {
		set(c, gatewayv1.GatewayConditionInsecureFrontendValidationMode,
			yes(gatewayv1.GatewayReasonConfigurationChanged, "Clients without a valid certificate are let in on some ports"))
	}
	status := gatewayv1.GatewayStatus{Conditions: c.list, AttachedListenerSets: ptr.To(gw.sets)}
	for _, address := range gw.exposure.Addresses {
		status.Addresses = append(status.Addresses, statusAddress(address))
	}
	for _, l := range gw.own {
		entry := gatewayv1.ListenerStatus{Name: l.spec.Name, SupportedKinds: l.supported, AttachedRoutes: int32(len(l.attached))}
		var before []metav1.Condition
		for _, o := range old.Listeners {
			if o.Name == l.spec.Name {
				before = o.Conditions
			}
		}
		entry.Conditions = l.conditions(now, before)
		status.Listeners = append(status.Listeners, entry)
	}
	return status
}

func statusAddress(address netip.Addr) gatewayv1.GatewayStatusAddress {
	return gatewayv1.GatewayStatusAddress{Type: ptr.To(gatewayv1.IPAddressType), Value: address.String()}
}

// insecureFallback tells whether some port lets in clients without a valid certificate.
func insecureFallback(gw *gatewayv1.Gateway) bool {
	insecure := func(v *gatewayv1.FrontendTLSValidation) bool {
		return v != nil && v.Mode == gatewayv1.AllowInsecureFallback
	}
	if gw.Spec.TLS == nil || gw.Spec.TLS.Frontend == nil {
		return false
	}
	return insecure(gw.Spec.TLS.Frontend.Default.Validation) ||
		slices.ContainsFunc(gw.Spec.TLS.Frontend.PerPort, func(p gatewayv1.TLSPortConfig) bool { return insecure(p.TLS.Validation) })
}

// judge decides whether a ListenerSet is accepted, and whether it serves.
func (s *listenerSet) judge() (accepted, programmed verdict) {
	valid, serving := 0, 0
	for _, l := range s.listeners {
		if l.usable() {
			valid++
		}
		if l.programmed.is() {
			serving++
		}
	}
	switch {
	case !s.allowed:
		v := no(gatewayv1.ListenerSetReasonNotAllowed, "the Gateway does not allow ListenerSets of this namespace")
		return v, v
	case !s.gateway.accepted.is():
		v := no(gatewayv1.ListenerSetReasonParentNotAccepted, "the Gateway is not accepted")
		return v, v
	case valid == 0:
		v := no(gatewayv1.ListenerSetReasonListenersNotValid, "no listener is valid")
		return v, v
	}
	accepted = yes(gatewayv1.ListenerSetReasonAccepted, "The ListenerSet is valid")
	if valid < len(s.listeners) {
		accepted = yes(gatewayv1.ListenerSetReasonListenersNotValid, "some listeners are not valid")
	}
	if serving == 0 {
		return accepted, no(gatewayv1.ListenerSetReasonPending, "no listener serves")
	}
	return accepted, yes(gatewayv1.ListenerSetReasonProgrammed, "The ListenerSet serves")
}

func (s *listenerSet) status(now metav1.Time) gatewayv1.ListenerSetStatus {
	old := s.object.Status
	accepted, programmed := s.judge()
	c := &conditions{generation: s.object.Generation, now: now, old: old.Conditions}
	set(c, gatewayv1.ListenerSetConditionAccepted, accepted)
	set(c, gatewayv1.ListenerSetConditionProgrammed, programmed)
	status := gatewayv1.ListenerSetStatus{Conditions: c.list}
	if !s.allowed {
		return status // nothing of the Gateway is told
	}
	for _, l := range s.listeners {
		entry := gatewayv1.ListenerEntryStatus{Name: l.spec.Name, SupportedKinds: l.supported, AttachedRoutes: int32(len(l.attached))}
		var before []metav1.Condition
		for _, o := range old.Listeners {
			if o.Name == l.spec.Name {
				before = o.Conditions
			}
		}
		entry.Conditions = l.conditions(now, before)
		status.Listeners = append(status.Listeners, entry)
	}
	return status
}

// outcome writes down what was decided.
func (d *decision) outcome() *Outcome {
	o := &Outcome{
		Table:        &table.Table{Services: d.services},
		Expose:       map[types.NamespacedName][]Socket{},
		Classes:      d.classResults,
		Gateways:     map[types.NamespacedName]gatewayv1.GatewayStatus{},
		ListenerSets: map[types.NamespacedName]gatewayv1.ListenerSetStatus{},
		Routes:       d.routeStatus,
		Policies:     map[types.NamespacedName][]gatewayv1.PolicyAncestorStatus{},
	}
	for _, s := range d.orderedSets {
		status := s.status(d.now)
		o.ListenerSets[reconcile.KeyOf(s.object)] = status
		if status.Conditions[0].Status == metav1.ConditionTrue {
			s.gateway.sets++
		}
	}
	for _, gw := range d.ordered {
		o.Gateways[reconcile.KeyOf(gw.object)] = gw.status(d.now)
		o.Expose[reconcile.KeyOf(gw.object)] = gw.sockets()
		for _, l := range gw.listeners {
			if gw.accepted.is() && l.usable() && d.world.Objects.Socket(l.socket()).IsValid() {
				o.Table.Listeners = append(o.Table.Listeners, l.asTable(d.world.Objects))
			}
		}
	}
	for _, p := range d.allPolicies {
		o.Policies[reconcile.KeyOf(p.object)] = p.status(d.now)
	}
	return o
}

// status is our part of the status of a policy, one entry for each Gateway that it has an effect on.
func (p *policy) status(now metav1.Time) []gatewayv1.PolicyAncestorStatus {
	var out []gatewayv1.PolicyAncestorStatus
	slices.SortFunc(p.ancestors, func(a, b gatewayv1.ParentReference) int {
		return cmp.Or(strings.Compare(string(*a.Namespace), string(*b.Namespace)), strings.Compare(string(a.Name), string(b.Name)))
	})
	for _, ancestor := range p.ancestors[:min(len(p.ancestors), 16)] { // as many as the API takes
		var old []metav1.Condition
		for _, o := range p.object.Status.Ancestors {
			if o.ControllerName == ControllerName && o.AncestorRef.Name == ancestor.Name && ptr.Equal(o.AncestorRef.Namespace, ancestor.Namespace) {
				old = o.Conditions
			}
		}
		c := &conditions{generation: p.object.Generation, now: now, old: old}
		set(c, gatewayv1.PolicyConditionAccepted, p.accepted)
		set(c, gatewayv1.BackendTLSPolicyConditionResolvedRefs, p.resolved)
		out = append(out, gatewayv1.PolicyAncestorStatus{AncestorRef: ancestor, ControllerName: ControllerName, Conditions: c.list})
	}
	return out
}
