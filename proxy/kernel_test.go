// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/network"
	"github.com/skiff-k8s/skiff/network/iptables"
	"github.com/skiff-k8s/skiff/network/nettest"
	"github.com/skiff-k8s/skiff/network/nfacct"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// machine is a node in its own network namespace: the real pod network, the real proxy, and a client outside.
type machine struct {
	t       *testing.T
	mode    Mode
	client  *fake.Clientset
	proxy   *Proxy
	outside string // a namespace that reaches the node at nodeIP
	socket  string
	stop    func()
}

const (
	nodeIP    = "192.0.2.1"
	outsideIP = "192.0.2.2"
)

var clusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56")}

func newMachine(t *testing.T, mode Mode) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, mode: mode, socket: filepath.Join(dir, "cni.sock"), outside: nettest.NewNetns(t, "outside")}
	nettest.Connect(t, "", "uplink", nodeIP+"/24", m.outside, "eth0", outsideIP+"/24")
	pods, err := network.New(network.Config{
		DataDir: dir, Socket: m.socket, ConfDir: dir, PluginType: "skiff", Bridge: "skiff0", ClusterCIDRs: clusterCIDRs,
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := pods.SetPodCIDRs([]string{"10.42.7.0/24", "fd42:0:0:7::/64"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- pods.Run(ctx) }()
	nettest.Eventually(t, "pod network", func() error { _, err := os.Stat(filepath.Join(dir, "10-skiff.conflist")); return err })
	m.client = fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}}},
	})
	m.start()
	t.Cleanup(func() {
		m.stop()
		cancel()
		if err := errors.Join(<-done, m.proxy.Cleanup(context.Background()), pods.Cleanup(context.Background())); err != nil {
			t.Error(err)
		}
		for _, name := range []string{"iptables", "ip6tables"} {
			for _, table := range []string{"nat", "filter", "mangle"} {
				out, err := exec.Command(name+"-save", "-t", table).CombinedOutput()
				if err != nil || strings.Contains(string(out), "KUBE-") || strings.Contains(string(out), "SKIFF-") || strings.Contains(string(out), "CNI-") {
					t.Errorf("%s: rules are left in %s: %v\n%s", name, table, err, out)
				}
			}
		}
		for _, name := range packetCounters {
			if _, err := nfacct.Packets(name); err == nil {
				t.Errorf("the packet counter %s is left", name)
			}
		}
		if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err != nil || strings.Contains(string(out), nftTable) {
			t.Errorf("nftables: %v\n%s", err, out)
		}
		exec.Command("ip", "link", "del", "uplink").Run()
	})
	return m
}

// inModes runs a test in each mode.
func inModes(t *testing.T, f func(*testing.T, *machine)) {
	for _, mode := range []Mode{IPTables, NFTables} {
		t.Run(string(mode), func(t *testing.T) { f(t, newMachine(t, mode)) })
	}
}

func (m *machine) start() {
	m.t.Helper()
	factory := informers.NewSharedInformerFactory(m.client, 0)
	var err error
	if m.proxy, err = New(Config{NodeName: "here", Mode: m.mode, ClusterCIDRs: clusterCIDRs}, m.client, factory); err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- m.proxy.Run(ctx) }()
	m.stop = func() {
		cancel()
		factory.Shutdown()
		if err := <-done; err != nil {
			m.t.Errorf("Run: %v", err)
		}
	}
}

// backendPod is a pod that answers on :8080, TCP and UDP, with its name.
type backendPod struct {
	netns string
	addrs []string
}

func (m *machine) pod(name string) *backendPod {
	m.t.Helper()
	p := &backendPod{netns: nettest.NewNetns(m.t, name)}
	p.addrs = nettest.Attach(m.t, m.socket, name, p.netns)
	nettest.Serve(m.t, p.netns, "tcp", ":8080", name)
	nettest.Serve(m.t, p.netns, "udp", p.addrs[0]+":8080", name)
	return p
}

// service creates or updates a Service with TCP port 80 and UDP port 53.
func (m *machine) service(name string, change func(*corev1.Service)) *corev1.Service {
	m.t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "10.43.0.100", ClusterIPs: []string{"10.43.0.100"},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{
				{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080, TargetPort: intstr.FromInt32(8080)},
				{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, NodePort: 30053, TargetPort: intstr.FromInt32(8080)},
			},
		},
	}
	if change != nil {
		change(svc)
	}
	services := m.client.CoreV1().Services("ns")
	if _, err := services.Get(m.t.Context(), name, metav1.GetOptions{}); err == nil {
		_, err = services.Update(m.t.Context(), svc, metav1.UpdateOptions{})
		if err != nil {
			m.t.Fatal(err)
		}
	} else if _, err := services.Create(m.t.Context(), svc, metav1.CreateOptions{}); err != nil {
		m.t.Fatal(err)
	}
	return svc
}

// endpoints makes the Service's slice hold these pods.
func (m *machine) endpoints(service string, family int, pods ...*backendPod) {
	m.t.Helper()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("%s-%d", service, family), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}[family],
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)},
			{Name: ptr.To("dns"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](8080)},
		},
	}
	for _, p := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.addrs[family]}, NodeName: ptr.To("here"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	api := m.client.DiscoveryV1().EndpointSlices("ns")
	_, err := api.Update(m.t.Context(), slice, metav1.UpdateOptions{})
	if err != nil {
		_, err = api.Create(m.t.Context(), slice, metav1.CreateOptions{})
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// answers waits until all the names answer, and nobody else does any more.
func (m *machine) answers(from, network, addr string, names ...string) {
	m.t.Helper()
	nettest.Eventually(m.t, fmt.Sprintf("%s %s is answered by %v", network, addr, names), func() error {
		missing := map[string]bool{}
		for _, name := range names {
			missing[name] = true
		}
		for asked := 0; asked < 5 || asked < 50 && len(missing) > 0; asked++ {
			got, _, err := nettest.Ask(m.t, from, network, addr)
			if err != nil {
				return err
			}
			if !slices.Contains(names, got) {
				return fmt.Errorf("%s answered", got)
			}
			delete(missing, got)
		}
		if len(missing) > 0 {
			return fmt.Errorf("no answer from %v", missing)
		}
		return nil
	})
}

func (m *machine) refuses(from, addr string) {
	m.t.Helper()
	nettest.Eventually(m.t, "tcp "+addr+" is refused", func() error {
		name, _, err := nettest.Ask(m.t, from, "tcp", addr)
		if err == nil {
			return fmt.Errorf("%s answered", name)
		}
		if !strings.Contains(err.Error(), "refused") {
			return err
		}
		return nil
	})
}

// A Service answers at its cluster IP, from pods (also the one behind it) and the node, and at its node port, from
// everywhere, including 127.0.0.1; on all its ports; in both families.
func TestServiceAnswers(t *testing.T) { inModes(t, testServiceAnswers) }

func testServiceAnswers(t *testing.T, m *machine) {
	a, b, client := m.pod("a"), m.pod("b"), m.pod("client")
	m.service("web", func(svc *corev1.Service) {
		svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, "fd43::100")
	})
	m.refuses(client.netns, "10.43.0.100:80") // no endpoints yet
	m.refuses("", "127.0.0.1:30080")          // in one mode because of the proxy
	m.endpoints("web", 0, a, b)
	m.endpoints("web", 1, a, b)
	for _, from := range []string{client.netns, a.netns, b.netns, ""} {
		m.answers(from, "tcp", "10.43.0.100:80", "a", "b")
		m.answers(from, "tcp", "[fd43::100]:80", "a", "b")
		m.answers(from, "tcp", nodeIP+":30080", "a", "b")
		m.answers(from, "udp", "10.43.0.100:53", "a", "b")
	}
	if m.mode == NFTables {
		m.refuses(client.netns, "10.43.0.100:81") // which the Service does not have
		m.refuses("", "[fd43::100]:81")
	}
	if m.mode == IPTables {
		m.answers("", "tcp", "127.0.0.1:30080", "a", "b")
		m.answers("", "udp", "127.0.0.1:30053", "a", "b")
		if n, err := nfacct.Packets(localhostCounter); err != nil || n == 0 {
			t.Errorf("%d packets to node ports at 127.0.0.1, %v; want some", n, err)
		}
	}
	m.answers(m.outside, "tcp", nodeIP+":30080", "a", "b")
	m.answers(m.outside, "udp", nodeIP+":30053", "a", "b")
	if _, peer, err := nettest.Ask(t, client.netns, "tcp", "10.43.0.100:80"); err != nil || peer != client.addrs[0] {
		t.Errorf("behind a cluster IP a pod sees %q, %v; want the client's %s", peer, err, client.addrs[0])
	}
	if _, peer, _ := nettest.Ask(t, m.outside, "tcp", nodeIP+":30080"); peer == outsideIP {
		t.Errorf("behind a node port with policy Cluster a pod sees the client's address; answers might pass the node by")
	}
	m.endpoints("web", 0, b)
	m.answers(client.netns, "tcp", "10.43.0.100:80", "b")
	if err := m.client.CoreV1().Services("ns").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "chains of the deleted Service are gone", func() error {
		if out, _ := exec.Command("nft", "list", "table", "ip", nftTable).Output(); strings.Contains(string(out), "/web/") {
			return errors.New(string(out))
		}
		if saved := saved(t, iptables.NAT); strings.Contains(saved, "KUBE-SVC-") || strings.Contains(saved, "KUBE-SEP-") || strings.Contains(saved, "KUBE-EXT-") {
			return errors.New(saved)
		}
		return nil
	})
}

func saved(t *testing.T, table iptables.Table) string {
	t.Helper()
	out, err := iptables.New(iptables.IPv4).Save(context.Background(), table)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestSessionAffinity(t *testing.T) { inModes(t, testSessionAffinity) }

func testSessionAffinity(t *testing.T, m *machine) {
	client := m.pod("client")
	m.service("web", func(svc *corev1.Service) {
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](2)}}
	})
	m.endpoints("web", 0, m.pod("a"), m.pod("b"), m.pod("c"), m.pod("d"))
	var first string
	nettest.Eventually(t, "service answers", func() (err error) {
		first, _, err = nettest.Ask(t, client.netns, "tcp", "10.43.0.100:80")
		return err
	})
	for range 20 {
		if name, _, err := nettest.Ask(t, client.netns, "tcp", "10.43.0.100:80"); err != nil || name != first {
			t.Fatalf("with affinity %q, %v answered after %q", name, err, first)
		}
	}
	nettest.Eventually(t, "affinity ends some time after the last connection", func() error {
		time.Sleep(2100 * time.Millisecond) // the timeout that the Service asks for; then each of four is as likely
		if name, _, err := nettest.Ask(t, client.netns, "tcp", "10.43.0.100:80"); err != nil || name == first {
			return fmt.Errorf("%q, %v", name, err)
		}
		return nil
	})
}

// A UDP flow moves on when the endpoint it was led to goes, although the same socket goes on sending.
func TestUDPFlowsMoveOn(t *testing.T) { inModes(t, testUDPFlowsMoveOn) }

func testUDPFlowsMoveOn(t *testing.T, m *machine) {
	a, b, client := m.pod("a"), m.pod("b"), m.pod("client")
	m.service("web", nil)
	m.endpoints("web", 0, a)
	m.answers(client.netns, "udp", "10.43.0.100:53", "a")
	ask := nettest.Dial(t, client.netns, "10.43.0.100:53")
	if name, err := ask(); err != nil || name != "a" {
		t.Fatalf("first answer %q, %v", name, err)
	}
	m.endpoints("web", 0, b)
	nettest.Eventually(t, "flow goes to b", func() error {
		if name, err := ask(); err != nil || name != "b" {
			return fmt.Errorf("%q, %v", name, err)
		}
		return nil
	})
}

// With policy Local a pod sees its client; load balancers ask the health check port; source ranges are kept.
func TestLoadBalancer(t *testing.T) { inModes(t, testLoadBalancer) }

func testLoadBalancer(t *testing.T, m *machine) {
	a, client := m.pod("a"), m.pod("client")
	remote := &backendPod{addrs: []string{"10.42.99.9"}}
	lb := func(ranges ...string) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Spec.Type = corev1.ServiceTypeLoadBalancer
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			svc.Spec.HealthCheckNodePort = 30999
			svc.Spec.LoadBalancerSourceRanges = ranges
			svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1"}}
		}
	}
	if out, err := exec.Command("nsenter", "--net="+m.outside, "ip", "route", "add", "198.51.100.1/32", "via", nodeIP).CombinedOutput(); err != nil {
		t.Fatalf("route: %v: %s", err, out)
	}
	m.service("web", lb())
	m.endpoints("web", 0, a)
	m.answers(m.outside, "tcp", "198.51.100.1:80", "a")
	m.answers(client.netns, "tcp", "198.51.100.1:80", "a")
	for _, addr := range []string{"198.51.100.1:80", nodeIP + ":30080"} {
		if _, peer, err := nettest.Ask(t, m.outside, "tcp", addr); err != nil || peer != outsideIP {
			t.Errorf("behind %s with policy Local the pod saw %q, %v; want the client's %s", addr, peer, err, outsideIP)
		}
	}
	nettest.Eventually(t, "the health check port tells of the endpoint", func() error { // which is told after the rules are written
		if code, weight := askHealth(t, "http://127.0.0.1:30999/"); code != 200 || weight != "1" {
			return fmt.Errorf("%d, weight %q; want 200 and 1", code, weight)
		}
		return nil
	})
	if code, _ := askHealth(t, "http://127.0.0.1:10256/healthz"); code != 200 {
		t.Errorf("/healthz says %d", code)
	}
	m.service("web", lb("203.0.113.0/24"))
	nettest.Eventually(t, "outside is not in the source ranges", func() error {
		if _, _, err := nettest.Ask(t, m.outside, "tcp", "198.51.100.1:80"); err == nil {
			return errors.New("still answered")
		}
		return nil
	})
	m.service("web", lb("203.0.113.0/24", "192.0.2.0/24"))
	m.answers(m.outside, "tcp", "198.51.100.1:80", "a")

	remoteOnly := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-0", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: remote.addrs, NodeName: ptr.To("there")}},
	}
	if _, err := m.client.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), remoteOnly, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "health check port says there is none here", func() error {
		if code, weight := askHealth(t, "http://127.0.0.1:30999/"); code != 503 || weight != "0" {
			return fmt.Errorf("%d, weight %q", code, weight)
		}
		return nil
	})
}

func askHealth(t *testing.T, url string) (code int, weight string) {
	t.Helper()
	nettest.Eventually(t, url, func() error {
		client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		code, weight = resp.StatusCode, resp.Header.Get("X-Load-Balancing-Endpoint-Weight")
		return nil
	})
	return code, weight
}

// What an earlier run left is removed at start; what somebody else removes comes back.
func TestRulesAreReconciled(t *testing.T) {
	m := newMachine(t, IPTables)
	a := m.pod("a")
	m.service("web", nil)
	m.endpoints("web", 0, a)
	m.answers("", "tcp", "10.43.0.100:80", "a")
	m.stop()
	stale := "*nat\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:KUBE-SEP-AAAAAAAAAAAAAAAA - [0:0]\n" +
		"-A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA\n-A KUBE-SERVICES -d 10.43.9.9 -j KUBE-SVC-AAAAAAAAAAAAAAAA\nCOMMIT\n"
	if err := iptables.New(iptables.IPv4).Restore(context.Background(), []byte(stale)); err != nil {
		t.Fatal(err)
	}
	m.answers("", "tcp", "10.43.0.100:80", "a") // without a proxy running
	m.start()
	nettest.Eventually(t, "stale chains are gone", func() error {
		if saved := saved(t, iptables.NAT); strings.Contains(saved, "AAAAAAAAAAAAAAAA") || strings.Contains(saved, "10.43.9.9") {
			return errors.New(saved)
		}
		return nil
	})
	before := saved(t, iptables.NAT)
	intact := func() bool { // what the loop does when it checks
		t.Helper()
		is, err := m.proxy.families[corev1.IPv4Protocol].backend.intact(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	// A flush of all rules, or what a firewall's reload does to one table.
	for _, flushes := range [][]string{{"-t nat -F"}, {"-t filter -F"}, {"-t nat -F", "-t nat -X", "-t filter -F", "-t filter -X", "-t mangle -F", "-t mangle -X"}} {
		nettest.Eventually(t, "the rules are called intact", func() error {
			if !intact() {
				return errors.New(saved(t, iptables.Filter) + saved(t, iptables.NAT))
			}
			return nil
		})
		m.stop()
		for _, args := range flushes {
			if out, err := exec.Command("iptables", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Fatalf("flush: %v: %s", err, out)
			}
		}
		if intact() {
			t.Errorf("after %q the rules are called intact", flushes)
		}
		m.start()
	}
	m.answers("", "tcp", "10.43.0.100:80", "a")
	if after := saved(t, iptables.NAT); strings.Count(after, "\n-A KUBE-") != strings.Count(before, "\n-A KUBE-") {
		t.Errorf("rules after a flush:\n%s\nwant:\n%s", after, before)
	}
}

// BenchmarkKernel measures writing all of 1,000 Services with 5 endpoints each, and then one endpoint of them.
func BenchmarkKernel(b *testing.B) {
	backend := newIPTablesBackend(iptables.New(iptables.IPv4), settings{})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if err := backend.replace(b.Context(), named(1000, nil), testSettings); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("endpoint", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			name := types.NamespacedName{Namespace: "ns", Name: "svc-00500"}
			if err := backend.update(b.Context(), map[types.NamespacedName][]servicePort{name: numbered(500, 4+i%2, nil)}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("service", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			name := types.NamespacedName{Namespace: "ns", Name: "svc-00500"}
			ports := numbered(500, 5, nil)
			if i%2 == 0 {
				ports = nil
			}
			if err := backend.update(b.Context(), map[types.NamespacedName][]servicePort{name: ports}); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := backend.cleanup(b.Context()); err != nil {
		b.Fatal(err)
	}
}
