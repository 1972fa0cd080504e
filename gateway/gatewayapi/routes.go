// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/backend"
	"github.com/skiff-k8s/skiff/gateway/table"
)

// translator turns one route into what the data plane serves, for one Gateway. It goes on after errors: what cannot be
// resolved is answered with an error, the rest is served.
type translator struct {
	*decision
	gateway   *gateway
	kind      string
	namespace string
	out       translation
}

func (d *decision) translator(gw *gateway, kind string, object metav1.Object) *translator {
	t := &translator{decision: d, gateway: gw, kind: kind, namespace: object.GetNamespace()}
	t.out.resolved = yes(gatewayv1.RouteReasonResolvedRefs, "All references are resolved")
	return t
}

// unresolved notes the first reference that leads nowhere.
func (t *translator) unresolved(reason gatewayv1.RouteConditionReason, format string, args ...any) {
	if t.out.resolved.is() {
		t.out.resolved = no(reason, fmt.Sprintf(format, args...))
	}
}

// unsupported notes the first thing that cannot be done.
func (t *translator) unsupported(format string, args ...any) {
	if t.out.unsupported == "" {
		t.out.unsupported = fmt.Sprintf(format, args...)
	}
}

// http translates an HTTPRoute.
func (d *decision) http(gw *gateway, route *gatewayv1.HTTPRoute) translation {
	t := d.translator(gw, httpRoute, route)
	for _, rule := range route.Spec.Rules {
		out := &table.Rule{}
		for _, match := range rule.Matches {
			out.Matches = append(out.Matches, t.httpMatch(match))
		}
		resolved := t.filters(&out.Filters, rule.Filters)
		for _, ref := range rule.BackendRefs {
			b := t.backend(ref.BackendRef)
			var filters table.Filters
			if !t.filters(&filters, ref.Filters) || filters.Redirect != nil || filters.Rewrite != nil || len(filters.Mirrors) > 0 || filters.CORS != nil {
				if len(ref.Filters) > 0 && t.out.resolved.is() {
					t.unsupported("a backend can have filters for headers only")
				}
				b.Invalid = true
			}
			b.RequestHeaders, b.ResponseHeaders = filters.RequestHeaders, filters.ResponseHeaders
			out.Backends = append(out.Backends, b)
		}
		if rule.Timeouts != nil {
			out.RequestTimeout, out.BackendTimeout = t.duration(rule.Timeouts.Request), t.duration(rule.Timeouts.BackendRequest)
		}
		if rule.Retry != nil {
			out.Retry = t.retry(rule.Retry)
		}
		if rule.SessionPersistence != nil {
			t.unsupported("session persistence is not supported")
		}
		if !resolved { // no request may pass where a filter is missing
			out.Backends, out.Filters = nil, table.Filters{}
		}
		t.out.rules = append(t.out.rules, out)
	}
	return t.out
}

// grpc translates a GRPCRoute.
func (d *decision) grpc(gw *gateway, route *gatewayv1.GRPCRoute) translation {
	t := d.translator(gw, grpcRoute, route)
	for _, rule := range route.Spec.Rules {
		out := &table.Rule{}
		for _, match := range rule.Matches {
			out.Matches = append(out.Matches, t.grpcMatch(match))
		}
		resolved := t.filters(&out.Filters, httpFilters(rule.Filters))
		for _, ref := range rule.BackendRefs {
			b := t.backend(ref.BackendRef)
			var filters table.Filters
			if !t.filters(&filters, httpFilters(ref.Filters)) || len(filters.Mirrors) > 0 {
				b.Invalid = true
			}
			b.RequestHeaders, b.ResponseHeaders = filters.RequestHeaders, filters.ResponseHeaders
			out.Backends = append(out.Backends, b)
		}
		if rule.SessionPersistence != nil {
			t.unsupported("session persistence is not supported")
		}
		if !resolved {
			out.Backends, out.Filters = nil, table.Filters{}
		}
		t.out.rules = append(t.out.rules, out)
	}
	return t.out
}

// httpFilters are filters of gRPC routes; HTTP routes have the same and more.
func httpFilters(filters []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var out []gatewayv1.HTTPRouteFilter
	for _, f := range filters {
		out = append(out, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier, ResponseHeaderModifier: f.ResponseHeaderModifier,
			RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

// stream translates a TLSRoute, TCPRoute or UDPRoute.
func (d *decision) stream(gw *gateway, kind string, object metav1.Object, refs []gatewayv1.BackendRef) translation {
	t := d.translator(gw, kind, object)
	for _, ref := range refs {
		t.out.backends = append(t.out.backends, t.backend(ref))
	}
	return t.out
}

func (t *translator) httpMatch(m gatewayv1.HTTPRouteMatch) table.Match {
	out := table.Match{Method: string(ptr.Deref(m.Method, ""))}
	if m.Path != nil {
		out.Path = table.PathMatch{Type: table.PathType(ptr.Deref(m.Path.Type, gatewayv1.PathMatchPathPrefix)), Value: ptr.Deref(m.Path.Value, "/")}
		if out.Path.Type == table.PathRegexp {
			out.Path.Regexp = t.regexp(out.Path.Value)
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, t.valueMatch(string(h.Name), h.Value, ptr.Deref(h.Type, "") == gatewayv1.HeaderMatchRegularExpression))
	}
	for _, q := range m.QueryParams {
		out.Query = append(out.Query, t.valueMatch(string(q.Name), q.Value, ptr.Deref(q.Type, "") == gatewayv1.QueryParamMatchRegularExpression))
	}
	return out
}

func (t *translator) grpcMatch(m gatewayv1.GRPCRouteMatch) table.Match {
	out := table.Match{}
	if m.Method != nil {
		service, method := ptr.Deref(m.Method.Service, ""), ptr.Deref(m.Method.Method, "")
		if ptr.Deref(m.Method.Type, gatewayv1.GRPCMethodMatchExact) == gatewayv1.GRPCMethodMatchRegularExpression {
			var err error
			if out.Path, err = table.GRPCMethodRegexp(service, method); err != nil {
				t.unsupported("regular expression: %v", err)
			}
		} else {
			out.Path = table.GRPCMethod(service, method)
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, t.valueMatch(string(h.Name), h.Value, ptr.Deref(h.Type, "") == gatewayv1.GRPCHeaderMatchRegularExpression))
	}
	return out
}

func (t *translator) valueMatch(name, value string, isRegexp bool) table.ValueMatch {
	out := table.ValueMatch{Name: name, Value: value}
	if isRegexp {
		out.Regexp = t.regexp(value)
	}
	return out
}

func (t *translator) regexp(expression string) *regexp.Regexp {
	compiled, err := remember(t.memo, memoKey{"regexp", expression, ""}, func() (*regexp.Regexp, error) { return table.Regexp(expression) })
	if err != nil {
		t.unsupported("regular expression: %v", err)
	}
	return compiled
}

// filters translates filters. False: one of them is a reference that leads nowhere.
func (t *translator) filters(out *table.Filters, filters []gatewayv1.HTTPRouteFilter) bool {
	resolved := true
	for _, f := range filters {
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
			out.RequestHeaders = headerFilter(f.RequestHeaderModifier)
		case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
			out.ResponseHeaders = headerFilter(f.ResponseHeaderModifier)
		case gatewayv1.HTTPRouteFilterRequestRedirect:
			out.Redirect = redirect(f.RequestRedirect)
		case gatewayv1.HTTPRouteFilterURLRewrite:
			out.Rewrite = &table.Rewrite{Hostname: string(ptr.Deref(f.URLRewrite.Hostname, "")), Path: pathModifier(f.URLRewrite.Path)}
		case gatewayv1.HTTPRouteFilterRequestMirror:
			if mirror := t.mirror(f.RequestMirror); mirror != nil {
				out.Mirrors = append(out.Mirrors, *mirror)
			}
		case gatewayv1.HTTPRouteFilterCORS:
			out.CORS = cors(f.CORS)
		case gatewayv1.HTTPRouteFilterExtensionRef:
			t.unresolved(gatewayv1.RouteReasonInvalidKind, "filters of kind %s are not known", f.ExtensionRef.Kind)
			resolved = false
		default:
			t.unsupported("filters of type %s are not supported", f.Type)
		}
	}
	return resolved
}

func headerFilter(f *gatewayv1.HTTPHeaderFilter) *table.HeaderFilter {
	out := &table.HeaderFilter{Remove: f.Remove}
	for _, h := range f.Set {
		out.Set = append(out.Set, table.Header{Name: string(h.Name), Value: h.Value})
	}
	for _, h := range f.Add {
		out.Add = append(out.Add, table.Header{Name: string(h.Name), Value: h.Value})
	}
	return out
}

func redirect(f *gatewayv1.HTTPRequestRedirectFilter) *table.Redirect {
	return &table.Redirect{
		Scheme: ptr.Deref(f.Scheme, ""), Hostname: string(ptr.Deref(f.Hostname, "")), Path: pathModifier(f.Path),
		Port: uint16(ptr.Deref(f.Port, 0)), Status: ptr.Deref(f.StatusCode, 302),
	}
}

func pathModifier(m *gatewayv1.HTTPPathModifier) *table.PathModifier {
	if m == nil {
		return nil
	}
	if m.Type == gatewayv1.PrefixMatchHTTPPathModifier {
		return &table.PathModifier{Prefix: true, Replacement: ptr.Deref(m.ReplacePrefixMatch, "")}
	}
	return &table.PathModifier{Replacement: ptr.Deref(m.ReplaceFullPath, "")}
}

func (t *translator) mirror(f *gatewayv1.HTTPRequestMirrorFilter) *table.Mirror {
	b := t.backend(gatewayv1.BackendRef{BackendObjectReference: f.BackendRef})
	if b.Invalid {
		return nil
	}
	out := &table.Mirror{Service: b.Service}
	switch {
	case f.Percent != nil:
		out.Numerator, out.Denominator = *f.Percent, 100
	case f.Fraction != nil:
		out.Numerator, out.Denominator = f.Fraction.Numerator, ptr.Deref(f.Fraction.Denominator, 100)
	}
	return out
}

func cors(f *gatewayv1.HTTPCORSFilter) *table.CORS {
	return &table.CORS{
		AllowOrigins: texts(f.AllowOrigins), AllowMethods: texts(f.AllowMethods), AllowHeaders: texts(f.AllowHeaders), ExposeHeaders: texts(f.ExposeHeaders),
		AllowCredentials: ptr.Deref(f.AllowCredentials, false), MaxAge: time.Duration(f.MaxAge) * time.Second,
	}
}

func texts[T ~string](values []T) []string {
	var out []string
	for _, v := range values {
		out = append(out, string(v))
	}
	return out
}

// duration reads what the API has validated already.
func (t *translator) duration(d *gatewayv1.Duration) time.Duration {
	if d == nil {
		return 0
	}
	out, err := time.ParseDuration(string(*d))
	if err != nil {
		t.unsupported("duration: %v", err)
	}
	return out
}

func (t *translator) retry(r *gatewayv1.HTTPRouteRetry) *table.Retry {
	out := &table.Retry{Attempts: ptr.Deref(r.Attempts, 0), Backoff: t.duration(r.Backoff)}
	for _, code := range r.Codes {
		out.Codes = append(out.Codes, int(code))
	}
	return out
}

// backend resolves a reference to a Service. One that leads nowhere keeps its share of the requests, which are answered with an error.
func (t *translator) backend(ref gatewayv1.BackendRef) table.Backend {
	out := table.Backend{Weight: ptr.Deref(ref.Weight, 1), Invalid: true}
	name := types.NamespacedName{Namespace: string(ptr.Deref(ref.Namespace, gatewayv1.Namespace(t.namespace))), Name: string(ref.Name)}
	group, kind := string(ptr.Deref(ref.Group, "")), string(ptr.Deref(ref.Kind, "Service"))
	if group != "" || kind != "Service" {
		t.unresolved(gatewayv1.RouteReasonInvalidKind, "a backend must be a Service, not a %s", kind)
		return out
	}
	if !permitted(t.world.Grants, reference{gatewayv1.GroupName, t.kind, t.namespace, "", "Service", name.Namespace, name.Name}) {
		t.unresolved(gatewayv1.RouteReasonRefNotPermitted, "no ReferenceGrant in namespace %s permits Service %s", name.Namespace, name.Name)
		return out
	}
	svc := t.world.Objects.Service(name)
	if svc == nil {
		t.unresolved(gatewayv1.RouteReasonBackendNotFound, "Service %s does not exist", name)
		return out
	}
	if why := backend.Usable(svc); why != "" {
		t.unresolved(gatewayv1.RouteReasonUnsupportedProtocol, "Service %s cannot be a backend: %s", name, why)
		return out
	}
	protocol := corev1.ProtocolTCP
	if t.kind == udpRoute {
		protocol = corev1.ProtocolUDP
	}
	port, ok := backend.Port(svc, protocol, "", ptr.Deref(ref.Port, 0))
	if !ok {
		t.unresolved(gatewayv1.RouteReasonBackendNotFound, "Service %s has no port %d of the route's protocol", name, ptr.Deref(ref.Port, 0))
		return out
	}
	made := backend.New(svc, port, t.world.Objects.Endpoints(name))
	if t.kind != udpRoute {
		if p := t.policyFor(name, port.Name, t.gateway.reference()); p != nil {
			if p.tls == nil || !p.accepted.is() {
				return out // better nothing than in clear
			}
			made.TLS = t.present(p)
		}
	}
	if made.TLS != nil && t.gateway.client != nil {
		made.Name += " by " + reconcile.KeyOf(t.gateway.object).String() // the same Service may be another one's without its certificate
	}
	t.services[made.Name] = made
	return table.Backend{Service: made.Name, Weight: out.Weight}
}

// present adds the Gateway's own certificate to how it connects to a backend.
func (t *translator) present(p *policy) *table.ClientTLS {
	own := t.gateway.client
	if own == nil {
		return p.tls
	}
	key := memoKey{"client with certificate", p.key.text + p.key.more, string(own.Certificate[0])}
	with, _ := remember(t.memo, key, func() (*table.ClientTLS, error) {
		c := *p.tls
		c.Certificate = own
		return &c, nil
	})
	return with
}

// findClientCertificate reads the certificate that a Gateway shows to backends.
func (d *decision) findClientCertificate(gw *gateway) {
	config := gw.object.Spec.TLS
	if config == nil || config.Backend == nil || config.Backend.ClientCertificateRef == nil {
		return
	}
	certificate, v := d.certificate(*config.Backend.ClientCertificateRef, gatewayKind, gw.object.Namespace)
	if certificate == nil {
		if v.reason != string(gatewayv1.GatewayReasonRefNotPermitted) {
			v.reason = string(gatewayv1.GatewayReasonInvalidClientCertificateRef)
		}
		gw.resolved = v
		return
	}
	gw.client = certificate
}
