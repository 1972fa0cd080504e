// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/gateway/backend"
	"github.com/skiff-k8s/skiff/gateway/table"
)

// world is what a table is made of.
type world struct {
	ingresses   []*networkingv1.Ingress // the oldest first
	http, https netip.AddrPort
	taken       map[uint16]string // ports that are somebody else's

	service func(namespace string) corelisters.ServiceNamespaceLister
	slices  func(namespace string) discoverylisters.EndpointSliceNamespaceLister
	secret  func(namespace, name string) (*corev1.Secret, error)
}

// result is a table, and what is wrong with Ingresses.
type result struct {
	table    *table.Table
	problems map[types.UID][]problem
}

// problem is something that an Ingress wants and does not get.
type problem struct{ reason, message string }

// memo is what was made before: what has not changed keeps its pointer.
type memo struct {
	routes   map[types.UID]*routes
	services map[string]*table.Service
	http     *table.Listener
	https    *table.Listener
	pairs    map[types.UID]*pair // of Secrets
	fallback *pair               // the certificate for hosts without one
}

func newMemo() *memo { return &memo{} }

// routes are those of one Ingress, in one generation.
type routes struct {
	generation int64
	routes     []*table.Route
	refs       []ref     // what they refer to
	problems   []problem // whatever else there is in the cluster
}

// ref is a port of a Service in a namespace, as an Ingress names it.
type ref struct {
	namespace string
	networkingv1.IngressServiceBackend
}

// String is what the table calls it.
func (r ref) String() string {
	port := r.Port.Name
	if port == "" {
		port = strconv.Itoa(int(r.Port.Number))
	}
	return r.namespace + "/" + r.Name + ":" + port
}

// prepare makes the routes of Ingresses, and returns the Services that a table of them depends on.
func (m *memo) prepare(ingresses []*networkingv1.Ingress) map[types.NamespacedName]bool {
	known, services := map[types.UID]*routes{}, map[types.NamespacedName]bool{}
	for _, in := range ingresses {
		mine := m.routes[in.UID]
		if mine == nil || mine.generation != in.Generation {
			mine = newRoutes(in)
		}
		known[in.UID] = mine
		for _, ref := range mine.refs {
			services[types.NamespacedName{Namespace: ref.namespace, Name: ref.Name}] = true
		}
	}
	m.routes = known
	return services
}

// translate makes a table of a world for whose Ingresses m was prepared, and remembers in m what it made.
func translate(w world, m *memo) result {
	r := result{problems: map[types.UID][]problem{}}
	services := map[string]*table.Service{}
	var every []*table.Route
	for _, in := range w.ingresses {
		mine := m.routes[in.UID]
		every = append(every, mine.routes...)
		problems := slices.Clone(mine.problems)
		for _, ref := range mine.refs {
			service, why := w.resolve(ref)
			if why != "" {
				problems = append(problems, problem{"BackendNotFound", why})
				continue
			}
			if old := m.services[ref.String()]; reflect.DeepEqual(old, service) {
				service = old
			}
			services[ref.String()] = service
		}
		r.problems[in.UID] = problems
	}
	m.services = services
	r.table = &table.Table{Services: services}
	if w.taken[w.http.Port()] == "" {
		m.http = keep(m.http, &table.Listener{Gateway: Name, Name: "http", Bind: w.http, Protocol: table.HTTP, Routes: every})
		r.table.Listeners = append(r.table.Listeners, m.http)
	}
	if server := w.tls(m, r.problems); server != nil && w.taken[w.https.Port()] == "" {
		m.https = keep(m.https, &table.Listener{Gateway: Name, Name: "https", Bind: w.https, Protocol: table.HTTPS, Routes: every, TLS: server})
		r.table.Listeners = append(r.table.Listeners, m.https)
	}
	return r
}

// keep returns old if it is the same as l.
func keep(old, l *table.Listener) *table.Listener {
	if old != nil && old.Bind == l.Bind && slices.Equal(old.Routes, l.Routes) && sameTLS(old.TLS, l.TLS) {
		return old
	}
	return l
}

// resolve finds the endpoints of a Service's port, or says why there is no such port.
func (w *world) resolve(r ref) (*table.Service, string) {
	svc, err := w.service(r.namespace).Get(r.Name)
	if err != nil {
		return nil, fmt.Sprintf("Service %s/%s does not exist", r.namespace, r.Name)
	}
	if why := backend.Usable(svc); why != "" {
		return nil, fmt.Sprintf("Service %s/%s cannot be used: %s", r.namespace, r.Name, why)
	}
	port, ok := backend.Port(svc, corev1.ProtocolTCP, r.Port.Name, r.Port.Number)
	if !ok {
		return nil, fmt.Sprintf("Service %s/%s has no TCP port %s", r.namespace, r.Name, portName(r.Port))
	}
	endpoints, err := w.slices(r.namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: r.Name}))
	if err != nil {
		return nil, err.Error()
	}
	service := backend.New(svc, port, endpoints)
	switch ptr.Deref(port.AppProtocol, "") {
	case "https", "HTTPS", backend.AppWSS:
		service.TLS = anyCertificate
	}
	return service, ""
}

func portName(p networkingv1.ServiceBackendPort) string {
	if p.Name != "" {
		return strconv.Quote(p.Name)
	}
	return strconv.Itoa(int(p.Number))
}

// anyCertificate is how backends are connected to that speak TLS: nothing in an Ingress says how to verify them.
var anyCertificate = &table.ClientTLS{Insecure: true}

// afterAll is added to the age of default backends: they serve what no rule matches, and the oldest does.
const afterAll = 200 * 365 * 24 * time.Hour

func newRoutes(in *networkingv1.Ingress) *routes {
	r := &routes{generation: in.Generation}
	name := in.Namespace + "/" + in.Name
	for i, rule := range in.Spec.Rules {
		route := &table.Route{Name: name, Created: in.CreationTimestamp.Time, Hostnames: []string{rule.Host}, SingleLabel: true}
		switch {
		case rule.HTTP != nil:
			for j, path := range rule.HTTP.Paths {
				route.Rules = append(route.Rules, &table.Rule{
					Matches:  []table.Match{{Path: pathMatch(path)}},
					Backends: r.backend(in, &path.Backend, fmt.Sprintf("spec.rules[%d].http.paths[%d].backend", i, j)),
				})
			}
		case in.Spec.DefaultBackend != nil:
			route.Rules = []*table.Rule{{Backends: r.backend(in, in.Spec.DefaultBackend, "spec.defaultBackend")}}
		}
		r.routes = append(r.routes, route)
	}
	if in.Spec.DefaultBackend != nil {
		r.routes = append(r.routes, &table.Route{
			Name: name, Created: in.CreationTimestamp.Add(afterAll), Hostnames: []string{""},
			Rules: []*table.Rule{{Backends: r.backend(in, in.Spec.DefaultBackend, "spec.defaultBackend")}},
		})
	}
	return r
}

// pathMatch is what a path means. ImplementationSpecific is like Prefix.
func pathMatch(p networkingv1.HTTPIngressPath) table.PathMatch {
	if ptr.Deref(p.PathType, "") == networkingv1.PathTypeExact {
		return table.PathMatch{Type: table.PathExact, Value: p.Path}
	}
	return table.PathMatch{Type: table.PathPrefix, Value: p.Path}
}

// backend is where requests for b go. field is where it is in the Ingress.
func (r *routes) backend(in *networkingv1.Ingress, b *networkingv1.IngressBackend, field string) []table.Backend {
	if b.Service == nil {
		resource := ptr.Deref(b.Resource, corev1.TypedLocalObjectReference{})
		what := problem{"UnsupportedBackend", fmt.Sprintf("%s: %s %q is not a Service, and nothing else is served", field, resource.Kind, resource.Name)}
		if !slices.Contains(r.problems, what) {
			r.problems = append(r.problems, what)
		}
		return []table.Backend{{Weight: 1, Invalid: true}}
	}
	to := ref{in.Namespace, *b.Service}
	if !slices.Contains(r.refs, to) {
		r.refs = append(r.refs, to)
	}
	return []table.Backend{{Service: to.String(), Weight: 1}}
}
