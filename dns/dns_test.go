// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// cluster is what the tables below ask about.
func cluster() []runtime.Object {
	return []runtime.Object{
		namespace("default"), namespace("kube-system"), namespace("empty"),
		service("default", "web", corev1.ServiceSpec{ClusterIP: "10.43.1.1", ClusterIPs: []string{"10.43.1.1", "fd00::1"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}}}),
		slice("default", "web", "web-1", []discoveryv1.EndpointPort{port("http", 8080, corev1.ProtocolTCP)}, endpoint("10.42.0.9", "", true)),
		service("default", "db", corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}}}),
		slice("default", "db", "db-1", []discoveryv1.EndpointPort{port("sql", 5432, corev1.ProtocolTCP)},
			endpoint("10.42.0.5", "db-0", true), endpoint("10.42.0.6", "db-1", true), endpoint("10.42.0.7", "", true), endpoint("10.42.0.8", "db-3", false)),
		service("default", "both", corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "sql", Port: 5432}, {Name: "web", Port: 80}}}),
		slice("default", "both", "both-4", []discoveryv1.EndpointPort{port("sql", 5432, corev1.ProtocolTCP), port("web", 8080, corev1.ProtocolTCP)},
			endpoint("10.42.0.30", "b-0", true)),
		slice6("default", "both", "both-6", []discoveryv1.EndpointPort{port("sql", 5432, corev1.ProtocolTCP), port("web", 8080, corev1.ProtocolTCP)},
			endpoint("fd00:42::30", "b-0", true), endpoint("fd00:42::", "", true)),
		service("default", "unnamed", corev1.ServiceSpec{ClusterIP: "10.43.1.2", ClusterIPs: []string{"10.43.1.2"}, Ports: []corev1.ServicePort{{Port: 80}}}),
		service("default", "portless", corev1.ServiceSpec{ClusterIP: "None"}),
		slice("default", "portless", "portless-1", nil, endpoint("10.42.0.20", "one", true)),
		service("default", "nobody", corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 1}}}),
		service("default", "out", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}),
		service("default", "alias", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web.default.svc.cluster.local"}),
	}
}

// The table is the Kubernetes DNS specification, 1.1, section by section, through CoreDNS's chain.
func TestRecords(t *testing.T) {
	s := serve(t, "", cluster()...)
	const nxdomain, nodata = "NXDOMAIN", "NODATA"
	for _, c := range []struct {
		about, name, typ string
		want             string // sorted, "; " between records
	}{
		{"2.2 schema version", "dns-version.cluster.local.", "TXT", "TXT 1.1.0"},
		{"2.3.1 ClusterIP", "web.default.svc.cluster.local.", "A", "A 10.43.1.1"},
		{"2.3.1 dual-stack", "web.default.svc.cluster.local.", "AAAA", "AAAA fd00::1"},
		{"names have no case", "WeB.Default.svc.Cluster.local.", "A", "A 10.43.1.1"},
		{"2.3.2 named port", "_http._tcp.web.default.svc.cluster.local.", "SRV", "SRV 80 web.default.svc.cluster.local."},
		{"2.3.2 UDP", "_dns._udp.web.default.svc.cluster.local.", "SRV", "SRV 53 web.default.svc.cluster.local."},
		{"2.3.2 all ports", "web.default.svc.cluster.local.", "SRV", "SRV 53 web.default.svc.cluster.local.; SRV 80 web.default.svc.cluster.local."},
		{"2.3.2 no such port", "_https._tcp.web.default.svc.cluster.local.", "SRV", nxdomain},
		{"2.3.2 a port without a name", "_http._tcp.unnamed.default.svc.cluster.local.", "SRV", nxdomain},
		{"2.3.1 only IPv4", "unnamed.default.svc.cluster.local.", "AAAA", nodata},
		{"2.4.1 IPv6", "both.default.svc.cluster.local.", "AAAA", "AAAA fd00:42::; AAAA fd00:42::30"},
		{"2.4.1 both families", "both.default.svc.cluster.local.", "A", "A 10.42.0.30"},
		{"2.4.1 endpoint, IPv6", "b-0.both.default.svc.cluster.local.", "AAAA", "AAAA fd00:42::30"},
		{"2.4.1 endpoint, IPv6, without a hostname", "fd00-42--0.both.default.svc.cluster.local.", "AAAA", "AAAA fd00:42::"},
		{"2.4.2 one port of two", "_web._tcp.both.default.svc.cluster.local.", "SRV",
			"SRV 8080 b-0.both.default.svc.cluster.local.; SRV 8080 fd00-42--0.both.default.svc.cluster.local."},
		{"2.4.3 PTR of an endpoint, IPv6", reverse("fd00:42::30"), "PTR", "PTR b-0.both.default.svc.cluster.local."},
		{"2.3.2 wrong protocol", "_http._udp.web.default.svc.cluster.local.", "SRV", nxdomain},
		{"2.3.3 PTR of a ClusterIP", "1.1.43.10.in-addr.arpa.", "PTR", "PTR web.default.svc.cluster.local."},
		{"2.3.3 PTR, IPv6", reverse("fd00::1"), "PTR", "PTR web.default.svc.cluster.local."},
		{"2.4.1 headless", "db.default.svc.cluster.local.", "A", "A 10.42.0.5; A 10.42.0.6; A 10.42.0.7"},
		{"2.4.1 endpoint", "db-0.db.default.svc.cluster.local.", "A", "A 10.42.0.5"},
		{"2.4.1 endpoint without a hostname", "10-42-0-7.db.default.svc.cluster.local.", "A", "A 10.42.0.7"},
		{"2.4.1 not ready", "db-3.db.default.svc.cluster.local.", "A", nxdomain},
		{"2.4.1 no ports", "portless.default.svc.cluster.local.", "A", "A 10.42.0.20"},
		{"2.4.1 no ports", "_x._tcp.portless.default.svc.cluster.local.", "SRV", nxdomain},
		{"2.4.1 no endpoints", "nobody.default.svc.cluster.local.", "A", nxdomain},
		{"2.4.2 headless SRV", "_sql._tcp.db.default.svc.cluster.local.", "SRV",
			"SRV 5432 10-42-0-7.db.default.svc.cluster.local.; SRV 5432 db-0.db.default.svc.cluster.local.; SRV 5432 db-1.db.default.svc.cluster.local."},
		{"2.4.3 PTR of an endpoint", "5.0.42.10.in-addr.arpa.", "PTR", "PTR db-0.db.default.svc.cluster.local."},
		{"2.5 ExternalName", "out.default.svc.cluster.local.", "CNAME", "CNAME www.example.org."},
		{"2.5 ExternalName in the cluster", "alias.default.svc.cluster.local.", "A", "A 10.43.1.1; CNAME web.default.svc.cluster.local."},
		{"2.5 ExternalName has nothing below", "x.out.default.svc.cluster.local.", "A", nxdomain},
		{"2.5 ExternalName has no ports", "_http._tcp.out.default.svc.cluster.local.", "SRV", nxdomain},
		{"pod, the other family", "10-42-0-99.default.pod.cluster.local.", "AAAA", nodata},
		{"pod, SRV", "10-42-0-99.default.pod.cluster.local.", "SRV", nodata},
		{"pod", "10-42-0-99.default.pod.cluster.local.", "A", "A 10.42.0.99"},
		{"pod, IPv6", "fd00--2.default.pod.cluster.local.", "AAAA", "AAAA fd00::2"},
		{"pod, no address", "web.default.pod.cluster.local.", "A", nxdomain},
		{"pod, no namespace", "10-42-0-99.nowhere.pod.cluster.local.", "A", nxdomain},
		{"no such type", "web.default.svc.cluster.local.", "MX", nodata},
		{"only IPv4", "db.default.svc.cluster.local.", "AAAA", nodata},
		{"only A", "web.default.svc.cluster.local.", "TXT", nodata},
		{"namespace", "default.svc.cluster.local.", "A", nodata},
		{"no namespace", "nowhere.svc.cluster.local.", "A", nxdomain},
		{"svc", "svc.cluster.local.", "A", nodata},
		{"apex", "cluster.local.", "A", nodata},
		{"no service", "none.default.svc.cluster.local.", "A", nxdomain},
		{"no service", "none.default.svc.cluster.local.", "MX", nxdomain},
		{"no wildcard", "*.default.svc.cluster.local.", "A", nxdomain},
		{"too long", "a.b.c.web.default.svc.cluster.local.", "A", nxdomain},
		{"name server", "cluster.local.", "NS", "NS ns.dns.cluster.local."},
		{"name server", "ns.dns.cluster.local.", "A", "A 10.43.0.10"},
	} {
		t.Run(c.about+" "+c.typ+" "+c.name, func(t *testing.T) {
			m := s.ask(t, c.name, c.typ)
			if got := summary(m); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if len(m.Answer) == 0 && (len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA) {
				t.Errorf("a negative answer without SOA: %v", m)
			}
			if !m.Authoritative {
				t.Error("not authoritative")
			}
		})
	}
}

// A negative answer says how long it holds: no longer than a positive one.
func TestNegativeAnswers(t *testing.T) {
	s := serve(t, "kubernetes cluster.local in-addr.arpa", cluster()...)
	for _, c := range []struct{ name, typ, zone string }{
		{"none.default.svc.cluster.local.", "A", "cluster.local."},
		{"default.svc.cluster.local.", "A", "cluster.local."},
		{"9.9.43.10.in-addr.arpa.", "PTR", "in-addr.arpa."}, // no Service
		{"8.0.42.10.in-addr.arpa.", "PTR", "in-addr.arpa."}, // an endpoint that is not ready
		{"1.1.43.10.in-addr.arpa.", "A", "in-addr.arpa."},
	} {
		name := c.name
		m := s.ask(t, name, c.typ)
		if len(m.Answer) > 0 || len(m.Ns) != 1 {
			t.Errorf("%s: %v", name, m)
			continue
		}
		soa, ok := m.Ns[0].(*dns.SOA)
		if !ok || soa.Hdr.Name != c.zone || soa.Hdr.Ttl != defaultTTL || soa.Minttl != defaultTTL {
			t.Errorf("%s: %v", name, soa)
		}
	}
}

// Answers are the same over UDP and TCP. One that does not fit into a UDP packet says so, and how much fits the client says
// by EDNS.
func TestTransports(t *testing.T) {
	many := make([]discoveryv1.Endpoint, 60)
	for i := range many {
		many[i] = endpoint(fmt.Sprintf("10.42.1.%d", i+1), "", true)
	}
	s := serve(t, "", append(cluster(),
		service("default", "many", corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Name: "p", Port: 1}}}),
		slice("default", "many", "many-1", []discoveryv1.EndpointPort{port("p", 1, corev1.ProtocolTCP)}, many...))...)
	for _, c := range []struct {
		about, network string
		edns           uint16
		complete       bool
	}{
		{"UDP", "udp", 0, false},
		{"TCP", "tcp", 0, true},
		{"UDP with EDNS, large enough", "udp", 4096, true},
		{"UDP with EDNS, too small", "udp", 600, false},
		{"TCP with EDNS", "tcp", 600, true},
	} {
		m := new(dns.Msg).SetQuestion("many.default.svc.cluster.local.", dns.TypeA)
		if c.edns > 0 {
			m.SetEdns0(c.edns, false)
		}
		client := &dns.Client{Net: c.network, UDPSize: 4096}
		answer, _, err := client.Exchange(m, s.addr.String())
		if err != nil {
			t.Errorf("%s: %v", c.about, err)
			continue
		}
		if answer.Truncated == c.complete || (len(answer.Answer) == len(many)) != c.complete {
			t.Errorf("%s: %d answers, truncated %v", c.about, len(answer.Answer), answer.Truncated)
		}
		if opt := answer.IsEdns0(); (opt != nil) != (c.edns > 0) {
			t.Errorf("%s: EDNS in the answer: %v", c.about, opt)
		}
		answer.Compress = true // as it came
		if c.network == "udp" && answer.Len() > max(512, int(c.edns)) {
			t.Errorf("%s: %d bytes", c.about, answer.Len())
		}
	}
	version := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	version.SetEdns0(4096, false).IsEdns0().SetVersion(1)
	if answer, _, err := new(dns.Client).Exchange(version, s.addr.String()); err != nil || answer.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v, %v; want BADVERS", answer, err)
	}
}

// SRV answers carry the addresses of their targets.
func TestSRVExtra(t *testing.T) {
	m := serve(t, "", cluster()...).ask(t, "_sql._tcp.db.default.svc.cluster.local.", "SRV")
	if len(m.Extra) != 3 {
		t.Errorf("extra = %v, want three addresses", m.Extra)
	}
}

// A Service that is made is answered at once, also if it was asked for before.
func TestChangeIsVisible(t *testing.T) {
	s := serve(t, "", cluster()...)
	const name = "new.default.svc.cluster.local."
	if got := summary(s.ask(t, name, "A")); got != "NXDOMAIN" {
		t.Fatalf("before: %s", got)
	}
	svc := service("default", "new", corev1.ServiceSpec{ClusterIP: "10.43.9.9", Ports: []corev1.ServicePort{{Port: 80}}})
	if _, err := s.client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for summary(s.ask(t, name, "A")) != "A 10.43.9.9" {
		if time.Since(began) > 2*time.Second {
			t.Fatal("not answered")
		}
	}
	t.Logf("visible after %v", time.Since(began))
	if err := s.client.CoreV1().Services("default").Delete(t.Context(), "new", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for began = time.Now(); summary(s.ask(t, name, "A")) != "NXDOMAIN"; {
		if time.Since(began) > 2*time.Second {
			t.Fatal("still answered")
		}
	}
}

// Other names go to the servers of resolv.conf, and without one they fail at once.
func TestForward(t *testing.T) {
	upstream := upstreamServer(t)
	corefile := fmt.Sprintf("  kubernetes cluster.local {\n  }\n forward . %s\n cache 30\n loop\n reload\n ready\n health {\n lameduck 5s\n }\n prometheus :9153\n errors", upstream)
	s := serve(t, corefile, cluster()...)
	if got := summary(s.ask(t, "www.example.org.", "A")); got != "A 192.0.2.1" {
		t.Errorf("forwarded: %s", got)
	}
	if got := summary(s.ask(t, "out.default.svc.cluster.local.", "A")); got != "A 192.0.2.1; CNAME www.example.org." {
		t.Errorf("ExternalName: %s", got)
	}
	for _, resolv := range []string{"", "nameserver 10.43.0.10\n"} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if resolv != "" {
			if err := os.WriteFile(path, []byte(resolv), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := upstreams(Config{ResolvConf: path, ClusterIPs: []string{"10.43.0.10"}})
		if err != nil || len(got) != 0 {
			t.Errorf("upstreams of %q = %v, %v", resolv, got, err)
		}
	}
	alone := serve(t, "", cluster()...)
	began := time.Now()
	if m := alone.ask(t, "www.example.org.", "A"); m.Rcode != dns.RcodeServerFailure || time.Since(began) > time.Second {
		t.Errorf("without upstream: %v after %v", m, time.Since(began))
	}
}

// This server is never its own upstream.
func TestUpstreamsWithoutSelf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver 127.0.0.1\nnameserver 192.0.2.7\nnameserver 10.42.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		listen string
		want   string
	}{
		{"10.42.0.1:53", "127.0.0.1 192.0.2.7"},
		{"0.0.0.0:53", "192.0.2.7 10.42.0.1"},
		{"10.42.0.1:5353", "127.0.0.1 192.0.2.7 10.42.0.1"},
	} {
		got, err := upstreams(Config{ResolvConf: path, Listen: []netip.AddrPort{netip.MustParseAddrPort(c.listen)}})
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("listening on %s: %v, %v; want %s", c.listen, got, err, c.want)
		}
	}
}

// A busy port is one clear line.
func TestBusyPort(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	server, err := New(Config{Listen: []netip.AddrPort{busy.Addr().(*net.TCPAddr).AddrPort()}, Dir: t.TempDir()}, factory, factory, client)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer cancel()
	factory.Start(ctx.Done())
	err = server.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "address already in use") || strings.Contains(err.Error(), "\n") {
		t.Errorf("Run = %v", err)
	}
}

// `pods verified` answers for pods that exist.
func TestPodsVerified(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.42.0.50"}}}}
	s := serve(t, " kubernetes cluster.local {\n pods verified\n }", append(cluster(), pod)...)
	for began := time.Now(); summary(s.ask(t, "10-42-0-50.default.pod.cluster.local.", "A")) != "A 10.42.0.50"; {
		if time.Since(began) > 2*time.Second {
			t.Fatal("no answer for a pod")
		}
	}
	if got := summary(s.ask(t, "10-42-0-51.default.pod.cluster.local.", "A")); got != "NXDOMAIN" {
		t.Errorf("no pod: %s", got)
	}
}

// A pod that asks for the first name of its search path gets the answer of the first that exists.
func TestAutoPath(t *testing.T) {
	asker := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "asker"}, Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "127.0.0.1"}}}}
	s := serve(t, fmt.Sprintf(" autopath @kubernetes\n kubernetes cluster.local {\n pods verified\n }\n forward . %s", upstreamServer(t)), append(cluster(), namespace("other"), asker)...)
	for began := time.Now(); summary(s.ask(t, "127-0-0-1.other.pod.cluster.local.", "A")) != "A 127.0.0.1"; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the asking pod is not known")
		}
	}
	for name, want := range map[string]string{
		"web.default.other.svc.cluster.local.":     "A 10.43.1.1; CNAME web.default.svc.cluster.local.",
		"www.example.org.other.svc.cluster.local.": "A 192.0.2.1; CNAME www.example.org.",
		"web.default.svc.cluster.local.":           "A 10.43.1.1", // not of its own namespace: asked for as it is
	} {
		if got := summary(s.ask(t, name, "A")); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Who may ask, and answers out of a pattern: plugins that people bring with their Corefiles.
func TestACLAndTemplate(t *testing.T) {
	s := serve(t, ` acl example.org {
 block type AAAA net *
 }
 template IN A example.org {
 match ^ip-(?P<a>[0-9]+)\.example\.org\.$
 answer "{{ .Name }} 60 IN A 192.0.2.{{ .Group.a }}"
 }
 kubernetes cluster.local`, cluster()...)
	if got := summary(s.ask(t, "ip-7.example.org.", "A")); got != "A 192.0.2.7" {
		t.Errorf("template: %s", got)
	}
	if got := summary(s.ask(t, "ip-7.example.org.", "AAAA")); got != "REFUSED" {
		t.Errorf("acl: %s", got)
	}
}

// The Service and the EndpointSlice lead to this server, and an old slice is put right.
func TestPublish(t *testing.T) {
	old := slice("kube-system", "kube-dns", "kube-dns-n1", nil, endpoint("10.9.9.9", "", true))
	s := serve(t, "", append(cluster(), old)...)
	s.waitPublished(t)
	for _, err := range []error{
		s.client.CoreV1().Services("kube-system").Delete(t.Context(), "kube-dns", metav1.DeleteOptions{}),
		s.client.DiscoveryV1().EndpointSlices("kube-system").Delete(t.Context(), "kube-dns-n1", metav1.DeleteOptions{}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.waitPublished(t)
}

func (s *testServer) waitPublished(t *testing.T) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		svc, noService := s.client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
		eps, noSlice := s.client.DiscoveryV1().EndpointSlices("kube-system").Get(t.Context(), "kube-dns-n1", metav1.GetOptions{})
		if noService == nil && noSlice == nil && svc.Spec.ClusterIP == "10.43.0.10" &&
			eps.Endpoints[0].Addresses[0] == "127.0.0.1" && *eps.Ports[0].Port == int32(s.addr.Port()) {
			return
		}
		if time.Since(began) > 2*time.Second {
			t.Fatalf("service %v, slice %v", svc, eps)
		}
	}
}

// A query for a cluster name, end to end over loopback.
func BenchmarkCluster(b *testing.B) { benchmark(b, "web.default.svc.cluster.local.") }

// The same for a name that the cache has.
func BenchmarkCached(b *testing.B) { benchmark(b, "www.example.org.") }

func benchmark(b *testing.B, name string) {
	corefile := fmt.Sprintf("  kubernetes cluster.local {\n  }\n forward . %s\n cache 30 {\n disable success cluster.local\n }\n", upstreamServer(b))
	s := serve(b, corefile, cluster()...)
	s.ask(b, name, "A")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := dns.Dial("udp", s.addr.String())
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		m := new(dns.Msg).SetQuestion(name, dns.TypeA)
		for pb.Next() {
			if err := conn.WriteMsg(m); err != nil {
				b.Error(err)
			}
			if _, err := conn.ReadMsg(); err != nil {
				b.Error(err)
			}
		}
	})
}

// testServer is a Server on loopback.
type testServer struct {
	addr   netip.AddrPort
	client *fake.Clientset
}

// serve runs a Server until the test ends. directives replace those of the default Corefile.
func serve(t testing.TB, directives string, objects ...runtime.Object) *testServer {
	t.Helper()
	addr := freePort(t)
	if directives != "" {
		objects = append(slices.Clone(objects), corefile(".:53 {\n"+directives+"\n}"))
	}
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	server, err := New(Config{
		Listen: []netip.AddrPort{addr}, Endpoint: addr, ClusterIPs: []string{"10.43.0.10"}, NodeName: "n1",
		ResolvConf: filepath.Join(t.TempDir(), "none"), Dir: t.TempDir(),
	}, factory, factory, client)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.StartWithContext(ctx)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
	s := &testServer{addr: addr, client: client}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if conn, err := net.Dial("tcp", addr.String()); err == nil {
			conn.Close()
			if _, err = dns.Exchange(new(dns.Msg).SetQuestion("cluster.local.", dns.TypeSOA), addr.String()); err == nil {
				return s // UDP comes after TCP
			}
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("the server does not listen")
		}
	}
}

func (s *testServer) ask(t testing.TB, name, typ string) *dns.Msg {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, dns.StringToType[typ])
	answer, _, err := new(dns.Client).Exchange(m, s.addr.String())
	if err != nil {
		t.Fatalf("%s %s: %v", typ, name, err)
	}
	return answer
}

// summary is an answer as one line without what differs between runs.
func summary(m *dns.Msg) string {
	if m.Rcode == dns.RcodeNameError {
		return "NXDOMAIN"
	}
	if m.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[m.Rcode]
	}
	if len(m.Answer) == 0 {
		return "NODATA"
	}
	var out []string
	for _, rr := range m.Answer {
		switch r := rr.(type) {
		case *dns.A:
			out = append(out, "A "+r.A.String())
		case *dns.AAAA:
			out = append(out, "AAAA "+r.AAAA.String())
		case *dns.SRV:
			out = append(out, fmt.Sprintf("SRV %d %s", r.Port, r.Target))
		case *dns.PTR:
			out = append(out, "PTR "+r.Ptr)
		case *dns.CNAME:
			out = append(out, "CNAME "+r.Target)
		case *dns.NS:
			out = append(out, "NS "+r.Ns)
		case *dns.TXT:
			out = append(out, "TXT "+strings.Join(r.Txt, ""))
		default:
			out = append(out, rr.String())
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// upstreamServer answers every A query with 192.0.2.1.
func upstreamServer(t testing.TB) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		if q := r.Question[0]; q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 1)}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// freePort finds a port of loopback that is free for UDP and TCP.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		p, err := net.ListenPacket("udp", addr.String())
		l.Close()
		if err == nil {
			p.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return netip.AddrPort{}
}

func reverse(ip string) string {
	name, _ := dns.ReverseAddr(ip)
	return name
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func service(ns, name string, spec corev1.ServiceSpec) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: spec}
}

func slice6(ns, service, name string, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := slice(ns, service, name, ports, endpoints...)
	s.AddressType = discoveryv1.AddressTypeIPv6
	return s
}

// corefile is the ConfigMap that has it.
func corefile(text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "coredns"}, Data: map[string]string{"Corefile": text}}
}

func slice(ns, service, name string, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints, Ports: ports,
	}
}

func endpoint(address, hostname string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

func port(name string, number int32, protocol corev1.Protocol) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &protocol}
}
