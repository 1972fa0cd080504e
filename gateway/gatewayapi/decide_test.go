// SPDX-License-Identifier: Apache-2.0

package gatewayapi

import (
	"bufio"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/gateway/table"
)

// things are the objects of a test, read from YAML. They are the older the further up they stand.
type things struct {
	World
	namespaces map[string]*corev1.Namespace
	services   map[types.NamespacedName]*corev1.Service
	slices     map[types.NamespacedName][]*discoveryv1.EndpointSlice
	secrets    map[types.NamespacedName]*corev1.Secret
	configMaps map[types.NamespacedName]*corev1.ConfigMap
	failed     map[Socket]string
	memo       memo
}

func (o *things) Namespace(name string) *corev1.Namespace               { return o.namespaces[name] }
func (o *things) Service(name types.NamespacedName) *corev1.Service     { return o.services[name] }
func (o *things) Secret(name types.NamespacedName) *corev1.Secret       { return o.secrets[name] }
func (o *things) ConfigMap(name types.NamespacedName) *corev1.ConfigMap { return o.configMaps[name] }
func (o *things) Endpoints(service types.NamespacedName) []*discoveryv1.EndpointSlice {
	return o.slices[service]
}

func (o *things) Exposed(types.NamespacedName) Exposure {
	return Exposure{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
}

func (o *things) Socket(s Socket) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(20000+s.Port))
}

// class is in every test.
const class = `
kind: GatewayClass
metadata: {name: skiff}
spec: {controllerName: skiff.io/gateway-controller}
---
kind: Service
metadata: {namespace: a, name: web}
spec: {ports: [{name: http, port: 80}, {name: https, port: 443}]}
---
kind: Service
metadata: {namespace: b, name: web}
spec: {ports: [{name: http, port: 80}]}
---
kind: Namespace
metadata: {name: a, labels: {team: a}}
---
kind: Namespace
metadata: {name: b, labels: {team: b}}
`

// read makes a world of YAML documents. Objects are in namespace a unless they say something else.
func read(t *testing.T, texts ...string) *things {
	t.Helper()
	o := &things{
		namespaces: map[string]*corev1.Namespace{}, services: map[types.NamespacedName]*corev1.Service{}, slices: map[types.NamespacedName][]*discoveryv1.EndpointSlice{},
		secrets: map[types.NamespacedName]*corev1.Secret{}, configMaps: map[types.NamespacedName]*corev1.ConfigMap{}, failed: map[Socket]string{},
	}
	o.Objects = o
	age := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(class + "---\n" + strings.Join(texts, "\n---\n"))))
	for {
		raw, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return o
		}
		if err != nil {
			t.Fatal(err)
		}
		age = age.Add(time.Minute)
		if err := o.add(raw, age); err != nil {
			t.Fatalf("%v in\n%s", err, raw)
		}
	}
}

func (o *things) add(raw []byte, age time.Time) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(raw, &kind); err != nil {
		return err
	}
	switch kind.Kind {
	case "GatewayClass":
		return into(&o.Classes, raw, age)
	case "Gateway":
		return into(&o.Gateways, raw, age)
	case "ListenerSet":
		return into(&o.ListenerSets, raw, age)
	case "HTTPRoute":
		return into(&o.HTTPRoutes, raw, age)
	case "GRPCRoute":
		return into(&o.GRPCRoutes, raw, age)
	case "TLSRoute":
		return into(&o.TLSRoutes, raw, age)
	case "TCPRoute":
		return into(&o.TCPRoutes, raw, age)
	case "ReferenceGrant":
		return into(&o.Grants, raw, age)
	case "BackendTLSPolicy":
		return into(&o.Policies, raw, age)
	case "Namespace":
		var list []*corev1.Namespace
		err := into(&list, raw, age)
		o.namespaces[list[0].Name] = list[0]
		return err
	case "Service":
		var list []*corev1.Service
		err := into(&list, raw, age)
		o.services[reconcile.KeyOf(list[0])] = list[0]
		return err
	case "Secret":
		var list []*corev1.Secret
		err := into(&list, raw, age)
		for k, v := range list[0].StringData {
			list[0].Data = map[string][]byte{k: []byte(v)}
		}
		o.secrets[reconcile.KeyOf(list[0])] = list[0]
		return err
	case "ConfigMap":
		var list []*corev1.ConfigMap
		err := into(&list, raw, age)
		o.configMaps[reconcile.KeyOf(list[0])] = list[0]
		return err
	}
	return errors.New("unexpected kind " + kind.Kind)
}

func into[T any, P interface {
	*T
	metav1.Object
}](list *[]P, raw []byte, age time.Time) error {
	object := P(new(T))
	err := yaml.UnmarshalStrict(raw, object)
	if object.GetNamespace() == "" {
		object.SetNamespace("a")
	}
	object.SetCreationTimestamp(metav1.NewTime(age))
	*list = append(*list, object)
	return err
}

func (o *things) decide() *Outcome {
	return decide(o.World, metav1.NewTime(time.Unix(0, 0)), &o.memo, "v1.6.3", func(s Socket) string { return o.failed[s] })
}

func reason(list []metav1.Condition, kind string) string {
	for _, c := range list {
		if c.Type == kind {
			return string(c.Status) + " " + c.Reason
		}
	}
	return ""
}

func inA(name string) types.NamespacedName { return types.NamespacedName{Namespace: "a", Name: name} }

// gw is a Gateway with these listeners.
func gw(name string, listeners ...string) string {
	return "kind: Gateway\nmetadata: {name: " + name + "}\nspec:\n  gatewayClassName: skiff\n  listeners:\n  - " + strings.Join(listeners, "\n  - ")
}

// A route attaches to the listeners of a parent that its reference means, that admit it, and with which it has a hostname in common.
func TestAttachment(t *testing.T) {
	gateway := gw("gw",
		"{name: any, port: 80, protocol: HTTP}",
		"{name: com, port: 80, protocol: HTTP, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}",
		"{name: team-b, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: b}}}}}",
		"{name: grpc, port: 8081, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}}",
		"{name: raw, port: 9000, protocol: TCP}")
	for _, test := range []struct {
		name, namespace, ref, hostnames string
		want                            string // the verdict
		listeners                       string
	}{
		{"all that admit it", "a", "name: gw", "", "True Accepted", "any com"},
		{"by name", "a", "name: gw, sectionName: com", "", "True Accepted", "com"},
		{"by port", "a", "name: gw, port: 80", "", "True Accepted", "any com"},
		{"by both, which do not fit", "a", "name: gw, sectionName: any, port: 8080", "", "False NoMatchingParent", ""},
		{"a name that is not there", "a", "name: gw, sectionName: nobody", "", "False NoMatchingParent", ""},
		{"from another namespace", "b", "name: gw, namespace: a", "", "True Accepted", "com team-b"},
		{"from a namespace that is not admitted", "b", "name: gw, namespace: a, sectionName: any", "", "False NotAllowedByListeners", ""},
		{"a kind that is not admitted", "a", "name: gw, sectionName: grpc", "", "False NotAllowedByListeners", ""},
		{"a protocol of other routes", "a", "name: gw, sectionName: raw", "", "False NotAllowedByListeners", ""},
		{"a hostname", "a", "name: gw", "www.example.com", "True Accepted", "any com"},
		{"a hostname in other letters", "a", "name: gw, sectionName: com", "WWW.Example.com", "True Accepted", "com"},
		{"another hostname", "a", "name: gw", "example.org", "True Accepted", "any"},
		{"no common hostname", "a", "name: gw, sectionName: com", "example.com", "False NoMatchingListenerHostname", ""},
		{"another's gateway", "a", "name: other", "", "", ""},
		{"a Service", "a", "name: web, kind: Service, group: ''", "", "", ""},
	} {
		hostnames := ""
		if test.hostnames != "" {
			hostnames = "\n  hostnames: [" + test.hostnames + "]"
		}
		o := read(t, gateway, "kind: HTTPRoute\nmetadata: {name: r, namespace: "+test.namespace+"}\nspec:\n  parentRefs: [{"+test.ref+"}]"+hostnames+
			"\n  rules: [{backendRefs: [{name: web, port: 80}]}]").decide()
		got := ""
		if parents := o.Routes[Route{httpRoute, types.NamespacedName{Namespace: test.namespace, Name: "r"}}]; len(parents) > 0 {
			got = reason(parents[0].Conditions, "Accepted")
			if refs := reason(parents[0].Conditions, "ResolvedRefs"); refs != "True ResolvedRefs" {
				t.Errorf("%s: ResolvedRefs %s", test.name, refs)
			}
		}
		var at []string
		for _, l := range o.Table.Listeners {
			if len(l.Routes) > 0 {
				at = append(at, l.Name)
			}
		}
		counted := 0
		for _, l := range o.Gateways[inA("gw")].Listeners {
			counted += int(l.AttachedRoutes)
		}
		if listeners := strings.Join(at, " "); got != test.want || listeners != test.listeners || counted != len(at) {
			t.Errorf("%s: %q at %q, %d counted; want %q at %q", test.name, got, listeners, counted, test.want, test.listeners)
		}
	}
}

// Hostnames in the table are narrowed to the listener's.
func TestHostnamesAreNarrowed(t *testing.T) {
	for _, test := range []struct{ listener, route, want string }{
		{"", "", ""},
		{"", "a.com *.b.com", "a.com *.b.com"},
		{"*.com", "a.com b.org", "a.com"},
		{"a.b.com", "*.com *.b.com", "a.b.com"},
		{"*.b.com", "*.com", "*.b.com"},
		{"a.com", "b.com", "(none)"},
	} {
		got := intersect(test.listener, strings.Fields(test.route))
		text := strings.Join(got, " ")
		if len(got) == 0 {
			text = "(none)"
		}
		if text != test.want {
			t.Errorf("%q with %q: %q, want %q", test.listener, test.route, text, test.want)
		}
	}
}

// A reference into another namespace needs a grant there that names who refers, and to what.
func TestReferenceGrants(t *testing.T) {
	grant := func(spec string) string {
		return "kind: ReferenceGrant\nmetadata: {name: g, namespace: b}\nspec: " + spec
	}
	const from, to = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}]", "to: [{group: '', kind: Service}]"
	for _, test := range []struct{ name, grant, want string }{
		{"any Service", grant("{" + from + ", " + to + "}"), "True ResolvedRefs"},
		{"this Service", grant("{" + from + ", to: [{group: '', kind: Service, name: web}]}"), "True ResolvedRefs"},
		{"another Service", grant("{" + from + ", to: [{group: '', kind: Service, name: api}]}"), "False RefNotPermitted"},
		{"Secrets", grant("{" + from + ", to: [{group: '', kind: Secret}]}"), "False RefNotPermitted"},
		{"for another kind", grant("{from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: a}], " + to + "}"), "False RefNotPermitted"},
		{"for another namespace", grant("{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: c}], " + to + "}"), "False RefNotPermitted"},
		{"in another namespace", strings.Replace(grant("{"+from+", "+to+"}"), "namespace: b", "namespace: a", 1), "False RefNotPermitted"},
	} {
		o := read(t, gw("gw", "{name: http, port: 80, protocol: HTTP}"), test.grant,
			"kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, namespace: b, port: 80}]}]}").decide()
		status := o.Routes[Route{httpRoute, inA("r")}][0].Conditions
		if got := reason(status, "ResolvedRefs"); got != test.want || reason(status, "Accepted") != "True Accepted" {
			t.Errorf("%s: %v, want %s", test.name, status, test.want)
		}
		b := o.Table.Listeners[0].Routes[0].Rules[0].Backends[0]
		if permitted := test.want == "True ResolvedRefs"; b.Invalid == permitted || permitted && b.Service != "b/web:80" {
			t.Errorf("%s: the backend is %+v", test.name, b)
		}
	}
}

// What a backend reference can be wrong in.
func TestBackendsThatAreNot(t *testing.T) {
	for ref, want := range map[string]string{
		"name: web, port: 80":                        "True ResolvedRefs",
		"name: nobody, port: 80":                     "False BackendNotFound",
		"name: web, port: 81":                        "False BackendNotFound",
		"name: web, port: 80, kind: Bucket":          "False InvalidKind",
		"name: web, port: 80, group: storage.k8s.io": "False InvalidKind",
	} {
		o := read(t, gw("gw", "{name: http, port: 80, protocol: HTTP}"),
			"kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{"+ref+"}, {name: web, port: 80}]}]}").decide()
		if got := reason(o.Routes[Route{httpRoute, inA("r")}][0].Conditions, "ResolvedRefs"); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
		if backends := o.Table.Listeners[0].Routes[0].Rules[0].Backends; len(backends) != 2 || backends[1].Invalid {
			t.Errorf("%s: backends are %+v", ref, backends)
		}
	}
}

// Listeners that cannot be told apart exclude each other: all of them in a Gateway, the later one among ListenerSets.
func TestConflicts(t *testing.T) {
	listenerSet := func(name, listener string) string {
		return "kind: ListenerSet\nmetadata: {name: " + name + "}\nspec: {parentRef: {name: gw}, listeners: [" + listener + "]}"
	}
	const allow = "\n  allowedListeners: {namespaces: {from: Same}}"
	for _, test := range []struct {
		name      string
		listeners []string
		sets      []string
		want      string // why each is conflicted, "-" if it is not
	}{
		{"hostnames differ", []string{"{name: a, port: 80, protocol: HTTP, hostname: a.com}", "{name: b, port: 80, protocol: HTTP}"}, nil, "- -"},
		{"ports differ", []string{"{name: a, port: 80, protocol: HTTP}", "{name: b, port: 81, protocol: TCP}"}, nil, "- -"},
		{"the same", []string{"{name: a, port: 80, protocol: HTTP}", "{name: b, port: 80, protocol: HTTP}"}, nil, "HostnameConflict HostnameConflict"},
		{"protocols", []string{"{name: a, port: 80, protocol: HTTP, hostname: a.com}", "{name: b, port: 80, protocol: TCP}"}, nil, "ProtocolConflict ProtocolConflict"},
		{"TCP and UDP", []string{"{name: a, port: 53, protocol: UDP}", "{name: b, port: 53, protocol: TCP}"}, nil, "- -"},
		{"a set gives way", []string{"{name: a, port: 80, protocol: HTTP}"}, []string{"{name: b, port: 80, protocol: HTTP}"}, "- HostnameConflict"},
		{"an older set wins", []string{"{name: a, port: 80, protocol: HTTP}"}, []string{"{name: b, port: 81, protocol: HTTP}", "{name: c, port: 81, protocol: TCP}"}, "- - ProtocolConflict"},
		{"who lost takes nothing", []string{"{name: a, port: 80, protocol: HTTP}"}, []string{"{name: b, port: 80, protocol: TCP}", "{name: c, port: 80, protocol: HTTP, hostname: c.com}"}, "- ProtocolConflict -"},
	} {
		texts := []string{gw("gw", test.listeners...) + allow}
		for i, listener := range test.sets {
			texts = append(texts, listenerSet(string(rune('r'+i)), listener))
		}
		o := read(t, texts...).decide()
		var got []string
		describe := func(list []metav1.Condition) {
			r := strings.TrimPrefix(reason(list, "Conflicted"), "True ")
			if r == "False NoConflicts" {
				r = "-"
			} else if reason(list, "Accepted") != "False "+r || reason(list, "Programmed") != "False "+r {
				t.Errorf("%s: conditions are %v", test.name, list)
			}
			got = append(got, r)
		}
		for _, l := range o.Gateways[inA("gw")].Listeners {
			describe(l.Conditions)
		}
		for i := range test.sets {
			describe(o.ListenerSets[inA(string(rune('r'+i)))].Listeners[0].Conditions)
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s: %q, want %q", test.name, text, test.want)
		}
	}
}

// ListenerSets belong to a Gateway only if it allows it, and tell nothing about it if not.
func TestListenerSetsNeedLeave(t *testing.T) {
	const set = "kind: ListenerSet\nmetadata: {name: s, namespace: b}\nspec: {parentRef: {name: gw, namespace: a}, listeners: [{name: x, port: 81, protocol: HTTP}]}"
	gateway := gw("gw", "{name: http, port: 80, protocol: HTTP}")
	for allow, want := range map[string]string{
		"": "False NotAllowed",
		"\n  allowedListeners: {namespaces: {from: Same}}":                                         "False NotAllowed",
		"\n  allowedListeners: {namespaces: {from: None}}":                                         "False NotAllowed",
		"\n  allowedListeners: {namespaces: {from: All}}":                                          "True Accepted",
		"\n  allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: b}}}}": "True Accepted",
		"\n  allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}": "False NotAllowed",
	} {
		o := read(t, gateway+allow, set).decide()
		status := o.ListenerSets[types.NamespacedName{Namespace: "b", Name: "s"}]
		allowed := want == "True Accepted"
		if got := reason(status.Conditions, "Accepted"); got != want || allowed != (len(status.Listeners) > 0) || allowed != (len(o.Table.Listeners) == 2) {
			t.Errorf("%s: %s with %d listeners, %d served; want %s", allow, got, len(status.Listeners), len(o.Table.Listeners), want)
		}
		if sets := *o.Gateways[inA("gw")].AttachedListenerSets; allowed != (sets == 1) {
			t.Errorf("%s: %d sets attached", allow, sets)
		}
	}
}

// Of an HTTPRoute and a GRPCRoute with the same hostname on a listener, the older one is attached.
func TestHTTPAndGRPCExcludeEachOther(t *testing.T) {
	web := "kind: HTTPRoute\nmetadata: {name: web}\nspec: {parentRefs: [{name: gw}], hostnames: [a.com]}"
	rpc := "kind: GRPCRoute\nmetadata: {name: rpc}\nspec: {parentRefs: [{name: gw}], hostnames: ['*.com']}"
	other := "kind: GRPCRoute\nmetadata: {name: other}\nspec: {parentRefs: [{name: gw}], hostnames: [b.org]}"
	gateway := gw("gw", "{name: http, port: 80, protocol: HTTP}")
	for _, test := range []struct {
		order []string
		want  string
	}{
		{[]string{gateway, web, rpc, other}, "True Accepted, False HostnameConflict, True Accepted"},
		{[]string{gateway, rpc, web, other}, "False HostnameConflict, True Accepted, True Accepted"},
	} {
		o := read(t, test.order...).decide()
		got := reason(o.Routes[Route{httpRoute, inA("web")}][0].Conditions, "Accepted") + ", " +
			reason(o.Routes[Route{grpcRoute, inA("rpc")}][0].Conditions, "Accepted") + ", " +
			reason(o.Routes[Route{grpcRoute, inA("other")}][0].Conditions, "Accepted")
		if got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}

// What makes a Gateway not accepted, or not programmed.
func TestGatewayConditions(t *testing.T) {
	good := gw("gw", "{name: http, port: 80, protocol: HTTP}")
	for _, test := range []struct{ name, text, accepted, programmed string }{
		{"good", good, "True Accepted", "True Programmed"},
		{"no listener is valid", gw("gw", "{name: x, port: 80, protocol: example.com/x}"), "False ListenersNotValid", "False Invalid"},
		{"some are", gw("gw", "{name: x, port: 80, protocol: example.com/x}", "{name: http, port: 80, protocol: HTTP}"), "True ListenersNotValid", "True Programmed"},
		{"parameters", good + "\n  infrastructure: {parametersRef: {group: x.io, kind: X, name: x}}", "False InvalidParameters", "False Invalid"},
		{"an address type", good + "\n  addresses: [{type: Hostname, value: example.com}]", "False UnsupportedAddress", "False Invalid"},
		{"no certificate", gw("gw", "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nobody}]}}"), "True Accepted", "False Invalid"},
		{"the port is taken", gw("gw", "{name: http, port: 1, protocol: HTTP}"), "True Accepted", "False Invalid"},
	} {
		o := read(t, test.text)
		o.failed[Socket{inA("gw"), 1, corev1.ProtocolTCP}] = "address already in use"
		status := o.decide().Gateways[inA("gw")].Conditions
		if a, p := reason(status, "Accepted"), reason(status, "Programmed"); a != test.accepted || p != test.programmed {
			t.Errorf("%s: %q and %q, want %q and %q", test.name, a, p, test.accepted, test.programmed)
		}
	}
}

// A Service keeps the port of a listener whose certificate is missing.
func TestPortsStayWithoutCertificate(t *testing.T) {
	o := read(t, gw("gw", "{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nobody}]}}", "{name: x, port: 444, protocol: example.com/x}")).decide()
	if ports := o.Expose[inA("gw")]; len(ports) != 1 || ports[0].Port != 443 || len(o.Table.Listeners) != 0 {
		t.Errorf("exposed are %v, served %d", ports, len(o.Table.Listeners))
	}
}

// Times of conditions are when their status changed last; a decision that is taken again changes nothing.
func TestConditionsKeepTheirTime(t *testing.T) {
	o := read(t, gw("gw", "{name: http, port: 80, protocol: HTTP}"))
	first := o.decide().Gateways[inA("gw")]
	o.Gateways[0].Status = first
	again := decide(o.World, metav1.NewTime(time.Unix(1000, 0)), &o.memo, "v1.6.3", func(Socket) string { return "" }).Gateways[inA("gw")]
	if len(again.Conditions) == 0 || !slices.Equal(again.Conditions, first.Conditions) || !slices.Equal(again.Listeners[0].Conditions, first.Listeners[0].Conditions) {
		t.Errorf("%v, then %v", first, again)
	}
}

// What has not changed is the same pointer in the next table.
func TestTablesShareWhatStays(t *testing.T) {
	o := read(t, gw("gw", "{name: http, port: 80, protocol: HTTP}", "{name: other, port: 81, protocol: HTTP}"),
		"kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw, sectionName: http}], rules: [{matches: [{path: {type: RegularExpression, value: '/a+'}}], backendRefs: [{name: web, port: 80}]}]}",
		"kind: HTTPRoute\nmetadata: {name: s}\nspec: {parentRefs: [{name: gw, sectionName: http}], rules: [{backendRefs: [{name: web, port: 80}]}]}")
	before := o.decide().Table
	o.HTTPRoutes[1] = o.HTTPRoutes[1].DeepCopy()
	o.HTTPRoutes[1].Spec.Hostnames = []gatewayv1.Hostname{"new.example.com"}
	after := o.decide().Table
	share(before, after)
	if after.Services["a/web:80"] != before.Services["a/web:80"] {
		t.Error("the Service is another one")
	}
	if after.Listeners[1] != before.Listeners[1] {
		t.Error("the listener without a change is another one")
	}
	if after.Listeners[0] == before.Listeners[0] || after.Listeners[0].Routes[0] != before.Listeners[0].Routes[0] || after.Listeners[0].Routes[1] == before.Listeners[0].Routes[1] {
		t.Error("not just the route that changed is another one")
	}
}

// The oldest BackendTLSPolicy of a target is in force, one for a port before one for the Service.
func TestBackendTLSPolicies(t *testing.T) {
	policy := func(name, section, validation string) string {
		return "kind: BackendTLSPolicy\nmetadata: {name: " + name + "}\nspec: {targetRefs: [{group: '', kind: Service, name: web" + section + "}], validation: {hostname: " + name + ".com, " + validation + "}}"
	}
	const system = "wellKnownCACertificates: System"
	o := read(t, gw("gw", "{name: http, port: 80, protocol: HTTP}"),
		policy("whole", "", system), policy("late", "", system), policy("section", ", sectionName: https", system),
		policy("broken", ", sectionName: http", "caCertificateRefs: [{group: '', kind: ConfigMap, name: nobody}]"),
		"kind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, port: 443}, {name: web, port: 80}]}]}").decide()
	for name, want := range map[string]string{
		"section": "True Accepted", "broken": "False NoValidCACertificate",
	} {
		ancestors := o.Policies[inA(name)]
		if len(ancestors) != 1 || reason(ancestors[0].Conditions, "Accepted") != want || ancestors[0].AncestorRef.Name != "gw" {
			t.Errorf("policy %s: %+v, want %s", name, ancestors, want)
		}
	}
	backends := o.Table.Listeners[0].Routes[0].Rules[0].Backends
	if tls := o.Table.Services[backends[0].Service].TLS; tls == nil || tls.ServerName != "section.com" {
		t.Errorf("port 443 is connected to by %+v", tls)
	}
	if !backends[1].Invalid {
		t.Error("requests go to a backend whose policy cannot be kept")
	}
}

// The table has what a route says.
func TestTranslation(t *testing.T) {
	o := read(t, gw("gw", "{name: http, port: 80, protocol: HTTP}", "{name: tcp, port: 90, protocol: TCP}"), `
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: gw}]
  rules:
  - matches: [{path: {type: Exact, value: /x}, method: GET, headers: [{name: V, value: '2'}], queryParams: [{name: q, value: '1.*', type: RegularExpression}]}]
    timeouts: {request: 10s, backendRequest: 1500ms}
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, percent: 20}}
    - {type: URLRewrite, urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /y}}}
    backendRefs: [{name: web, port: 80, weight: 3, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: A, value: b}]}}]}]
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 308}}]
---
kind: TCPRoute
metadata: {name: older}
spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, port: 443}]}]}
---
kind: TCPRoute
metadata: {name: newer}
spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`).decide()
	rules := o.Table.Listeners[0].Routes[0].Rules
	m := rules[0].Matches[0]
	if m.Path.Type != table.PathExact || m.Path.Value != "/x" || m.Method != "GET" || m.Headers[0].Name != "V" || !m.Query[0].Regexp.MatchString("15") {
		t.Errorf("the match is %+v", m)
	}
	f := rules[0].Filters
	if f.Mirrors[0] != (table.Mirror{Service: "a/web:80", Numerator: 20, Denominator: 100}) || f.Rewrite.Hostname != "h" || *f.Rewrite.Path != (table.PathModifier{Prefix: true, Replacement: "/y"}) {
		t.Errorf("the filters are %+v", f)
	}
	if rules[0].RequestTimeout != 10*time.Second || rules[0].BackendTimeout != 1500*time.Millisecond {
		t.Errorf("the timeouts are %v and %v", rules[0].RequestTimeout, rules[0].BackendTimeout)
	}
	if b := rules[0].Backends[0]; b.Weight != 3 || b.Service != "a/web:80" || b.RequestHeaders.Set[0] != (table.Header{Name: "A", Value: "b"}) {
		t.Errorf("the backend is %+v", b)
	}
	if r := rules[1].Filters.Redirect; *r != (table.Redirect{Scheme: "https", Status: 308}) {
		t.Errorf("the redirect is %+v", r)
	}
	streams := o.Table.Listeners[1].Streams
	if len(streams) != 2 || streams[0].Name != "a/older" || streams[0].Backends[0].Service != "a/web:443" {
		t.Errorf("the streams are %+v", streams)
	}
}
