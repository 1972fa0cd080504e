// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// cluster is a world with these objects.
func cluster(objects ...runtime.Object) world {
	w := world{http: netip.MustParseAddrPort("0.0.0.0:80"), https: netip.MustParseAddrPort("0.0.0.0:443")}
	index := cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}
	services, endpoints := cache.NewIndexer(cache.MetaNamespaceKeyFunc, index), cache.NewIndexer(cache.MetaNamespaceKeyFunc, index)
	secrets := map[string]*corev1.Secret{}
	for _, obj := range objects {
		switch o := obj.(type) {
		case *networkingv1.Ingress:
			w.ingresses = append(w.ingresses, o)
		case *corev1.Service:
			_ = services.Add(o)
		case *discoveryv1.EndpointSlice:
			_ = endpoints.Add(o)
		case *corev1.Secret:
			secrets[o.Namespace+"/"+o.Name] = o
		}
	}
	w.service, w.slices = corelisters.NewServiceLister(services).Services, discoverylisters.NewEndpointSliceLister(endpoints).EndpointSlices
	w.secret = func(namespace, name string) (*corev1.Secret, error) {
		if s := secrets[namespace+"/"+name]; s != nil {
			return s, nil
		}
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
	}
	return w
}

func newIngress(namespace, name string, age int, change func(*networkingv1.IngressSpec)) *networkingv1.Ingress {
	in := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID(namespace + "/" + name), Generation: 1,
		CreationTimestamp: metav1.Unix(int64(1000-age), 0),
	}}
	in.Spec.IngressClassName = ptr.To(ClassName)
	change(&in.Spec)
	return in
}

func to(service string, port int32) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: port}}}
}

func toNamed(service, port string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Name: port}}}
}

func path(kind networkingv1.PathType, path string, backend networkingv1.IngressBackend) networkingv1.HTTPIngressPath {
	return networkingv1.HTTPIngressPath{Path: path, PathType: &kind, Backend: backend}
}

func rule(host string, paths ...networkingv1.HTTPIngressPath) networkingv1.IngressRule {
	r := networkingv1.IngressRule{Host: host}
	if len(paths) > 0 {
		r.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: paths}
	}
	return r
}

func newService(namespace, name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Ports: ports}}
}

func newSlice(namespace, service, port string, number int32, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: service + port, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &port, Port: &number, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	return s
}

func newSecret(t *testing.T, namespace, name string) *corev1.Secret {
	p := newSelfSigned()
	key, err := x509.MarshalPKCS8PrivateKey(p.certificate.PrivateKey)
	if p.err != nil || err != nil {
		t.Fatal(errors.Join(p.err, err))
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), ResourceVersion: "1"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.certificate.Certificate[0]}),
			corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
		},
	}
}

// translated prepares and translates.
func translated(w world, m *memo) result {
	m.prepare(w.ingresses)
	return translate(w, m)
}

// show says what routes there are: hostname, type and path, and backend.
func show(routes []*table.Route) (lines []string) {
	for _, r := range routes {
		for _, rule := range r.Rules {
			match := "all"
			if len(rule.Matches) > 0 {
				match = string(rule.Matches[0].Path.Type) + " " + rule.Matches[0].Path.Value
			}
			lines = append(lines, fmt.Sprintf("%s %s: %s%s", strings.Join(r.Hostnames, ","), match, rule.Backends[0].Service, map[bool]string{true: "invalid"}[rule.Backends[0].Invalid]))
		}
	}
	return lines
}

func TestRoutes(t *testing.T) {
	in := newIngress("ns", "web", 0, func(s *networkingv1.IngressSpec) {
		s.DefaultBackend = ptr.To(to("default", 80))
		s.Rules = []networkingv1.IngressRule{
			rule("a.org", path(networkingv1.PathTypeExact, "/exact", to("a", 80)), path(networkingv1.PathTypePrefix, "/prefix", toNamed("a", "web"))),
			rule("*.b.org", path(networkingv1.PathTypeImplementationSpecific, "", to("b", 80))),
			rule("c.org"),
			rule("", path(networkingv1.PathTypePrefix, "/r", networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "Bucket", Name: "b"}})),
		}
	})
	r := translated(cluster(in), newMemo())
	if len(r.table.Listeners) != 1 || r.table.Listeners[0].Protocol != table.HTTP {
		t.Fatalf("listeners %+v, want one of HTTP", r.table.Listeners)
	}
	routes := r.table.Listeners[0].Routes
	want := []string{
		"a.org Exact /exact: ns/a:80", "a.org PathPrefix /prefix: ns/a:web", "*.b.org PathPrefix : ns/b:80",
		"c.org all: ns/default:80", " PathPrefix /r: invalid", " all: ns/default:80",
	}
	if got := show(routes); !slices.Equal(got, want) {
		t.Errorf("routes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if last := routes[len(routes)-1]; last.Created.Before(time.Now().AddDate(100, 0, 0)) {
		t.Errorf("the default backend is of %v, which is before other Ingresses", last.Created)
	}
	if !routes[0].SingleLabel {
		t.Error("a wildcard is more than one label")
	}
}

func TestBackends(t *testing.T) {
	in := newIngress("ns", "web", 0, func(s *networkingv1.IngressSpec) {
		s.Rules = []networkingv1.IngressRule{rule("",
			path(networkingv1.PathTypePrefix, "/1", to("a", 80)), path(networkingv1.PathTypePrefix, "/2", toNamed("a", "tls")),
			path(networkingv1.PathTypePrefix, "/3", to("a", 81)), path(networkingv1.PathTypePrefix, "/4", to("missing", 80)),
			path(networkingv1.PathTypePrefix, "/5", to("outside", 80)),
		)}
	})
	outside := newService("ns", "outside", corev1.ServicePort{Port: 80})
	outside.Spec.Type = corev1.ServiceTypeExternalName
	w := cluster(in, outside,
		newService("ns", "a", corev1.ServicePort{Name: "web", Port: 80, AppProtocol: ptr.To("kubernetes.io/h2c")}, corev1.ServicePort{Name: "tls", Port: 443, AppProtocol: ptr.To("https")}),
		newSlice("ns", "a", "web", 8080, "10.0.0.1"), newSlice("ns", "a", "tls", 8443, "10.0.0.1"),
	)
	m := newMemo()
	r := translated(w, m)
	web, secure := r.table.Services["ns/a:80"], r.table.Services["ns/a:tls"]
	if web == nil || web.Protocol != table.AppH2C || web.TLS != nil || len(web.Endpoints) != 1 || web.Endpoints[0] != netip.MustParseAddrPort("10.0.0.1:8080") {
		t.Errorf("ns/a:80 is %+v", web)
	}
	if secure == nil || secure.TLS == nil || secure.Endpoints[0] != netip.MustParseAddrPort("10.0.0.1:8443") {
		t.Errorf("ns/a:tls is %+v", secure)
	}
	var told []string
	for _, p := range r.problems[in.UID] {
		told = append(told, p.reason+": "+p.message)
	}
	want := []string{
		"BackendNotFound: Service ns/a has no TCP port 81",
		"BackendNotFound: Service ns/missing does not exist",
		"BackendNotFound: Service ns/outside cannot be used: it is of type ExternalName, which stands for a name outside of the cluster",
	}
	if !slices.Equal(told, want) {
		t.Errorf("problems %q, want %q", told, want)
	}
	if !m.prepare(w.ingresses)[types.NamespacedName{Namespace: "ns", Name: "missing"}] {
		t.Error("nobody would notice when the missing Service comes to be")
	}

	// What is the same keeps its pointer; what changes does not take others along.
	again := translated(w, m)
	if again.table.Listeners[0] != r.table.Listeners[0] || again.table.Services["ns/a:80"] != web {
		t.Error("a table of the same objects is made anew")
	}
	w.slices = cluster(newSlice("ns", "a", "web", 8080, "10.0.0.2"), newSlice("ns", "a", "tls", 8443, "10.0.0.1")).slices
	again = translated(w, m)
	if again.table.Services["ns/a:80"] == web || again.table.Services["ns/a:tls"] != secure || again.table.Listeners[0] != r.table.Listeners[0] {
		t.Error("new endpoints of one port changed others, or were not seen")
	}
}

func TestTLS(t *testing.T) {
	tlsFor := func(secret string, hosts ...string) func(*networkingv1.IngressSpec) {
		return func(s *networkingv1.IngressSpec) {
			s.Rules = []networkingv1.IngressRule{rule("rule.org", path(networkingv1.PathTypePrefix, "/", to("a", 80)))}
			s.TLS = []networkingv1.IngressTLS{{Hosts: hosts, SecretName: secret}}
		}
	}
	first, second := newSecret(t, "ns", "first"), newSecret(t, "other", "second")
	broken := newSecret(t, "ns", "broken")
	broken.Data[corev1.TLSPrivateKeyKey] = second.Data[corev1.TLSPrivateKeyKey]
	der := func(s *corev1.Secret) []byte {
		block, _ := pem.Decode(s.Data[corev1.TLSCertKey])
		return block.Bytes
	}
	old := newIngress("ns", "old", 5, tlsFor("first", "a.org", "*.b.org"))
	thief := newIngress("other", "thief", 4, tlsFor("second", "a.org", "c.org"))
	byRule := newIngress("other", "by-rule", 3, tlsFor("second"))
	wrong := newIngress("ns", "wrong", 2, tlsFor("broken", "d.org"))
	missing := newIngress("ns", "missing", 1, tlsFor("none", "e.org"))
	w, m := cluster(old, thief, byRule, wrong, missing, first, second, broken), newMemo()
	r := translated(w, m)
	if len(r.table.Listeners) != 2 || r.table.Listeners[1].Protocol != table.HTTPS {
		t.Fatalf("listeners %+v, want HTTP and HTTPS", r.table.Listeners)
	}
	server := r.table.Listeners[1].TLS
	for host, want := range map[string]*corev1.Secret{"a.org": first, "*.b.org": first, "c.org": second, "rule.org": second, "d.org": nil, "e.org": nil} {
		got := server.ByName[host]
		if want == nil && len(got) > 0 || want != nil && (len(got) != 1 || !slices.Equal(got[0].Certificate[0], der(want))) {
			t.Errorf("certificates for %s: %v, want that of %v", host, got, want)
		}
	}
	if len(server.Certificates) != 1 {
		t.Errorf("%d certificates for all other hosts, want a self-signed one", len(server.Certificates))
	}
	for in, want := range map[*networkingv1.Ingress]string{old: "", wrong: "Secret ns/broken has no certificate and key that fit", missing: "Secret ns/none does not exist"} {
		got := ""
		for _, p := range r.problems[in.UID] {
			if p.reason == "TLSSecretInvalid" {
				got = p.message
			}
		}
		if !strings.HasPrefix(got, want) || want == "" && got != "" {
			t.Errorf("%s is told %q, want %q", in.Name, got, want)
		}
	}
	if again := translated(w, m); again.table.Listeners[1] != r.table.Listeners[1] {
		t.Error("a table of the same Secrets is made anew")
	}
	if first.ResourceVersion = "2"; sameTLS(translated(w, m).table.Listeners[1].TLS, server) {
		t.Error("a new version of a Secret changed nothing")
	}
}

func TestTakenPorts(t *testing.T) {
	in := newIngress("ns", "web", 0, func(s *networkingv1.IngressSpec) {
		s.DefaultBackend = ptr.To(to("a", 80))
		s.TLS = []networkingv1.IngressTLS{{}}
	})
	w := cluster(in)
	w.taken = map[uint16]string{80: "ns/balanced"}
	if r := translated(w, newMemo()); len(r.table.Listeners) != 1 || r.table.Listeners[0].Protocol != table.HTTPS {
		t.Errorf("listeners %+v, want HTTPS alone", r.table.Listeners)
	}
}

func TestPoints(t *testing.T) {
	ips := func(all ...string) (list []networkingv1.IngressLoadBalancerIngress) {
		for _, ip := range all {
			list = append(list, networkingv1.IngressLoadBalancerIngress{IP: ip})
		}
		return list
	}
	own := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	others := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.2"): true}
	for _, test := range []struct {
		old    []networkingv1.IngressLoadBalancerIngress
		served bool
		want   []networkingv1.IngressLoadBalancerIngress
	}{
		{nil, true, ips("10.0.0.1")},
		{nil, false, nil},
		{ips("10.0.0.1"), false, nil},
		{ips("10.0.0.2"), true, ips("10.0.0.1", "10.0.0.2")},
		{ips("10.0.0.1", "10.0.0.2"), false, ips("10.0.0.2")},
		{ips("10.0.0.3", "10.0.0.1"), true, ips("10.0.0.1")},
		{[]networkingv1.IngressLoadBalancerIngress{{Hostname: "lb.example.com"}}, true, ips("10.0.0.1")},
	} {
		got := points(test.old, own, others, test.served)
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("points(%v, served %v) = %v, want %v", test.old, test.served, got, test.want)
		}
	}
}
