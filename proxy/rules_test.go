// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/knftables"

	"github.com/skiff-k8s/skiff/network/iptables"
)

var rewrite = flag.Bool("rewrite", false, "write the rule sets in testdata anew")

var (
	here         = node{name: "here", zone: "z1", ips: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	testSettings = settings{
		family: corev1.IPv4Protocol, clusterCIDR: netip.MustParsePrefix("10.42.0.0/16"), nodeIPs: here.ips,
		allNodePortIPs: true, localhostNodePorts: true, dropInvalid: true,
	}
)

// Endpoints in tests: a and b are on this node, c and d on others.
const (
	epA = "10.42.1.1"
	epB = "10.42.1.2"
	epC = "10.42.2.1"
	epD = "10.42.2.2"
)

type story struct {
	name    string
	service func(*corev1.Service)
	slices  []*discoveryv1.EndpointSlice
	set     func(*settings)
	traces  []traceCase
}

type traceCase struct {
	what string
	packet
	want []string
}

func fromPod(to string) packet { return pkt("10.42.1.9", to, false) }
func fromOutside(to string) packet {
	return pkt("203.0.113.9", to, false)
}
func fromNode(to string) packet { return pkt("192.0.2.1", to, true) }

func pkt(from, to string, viaNode bool) packet {
	return packet{from: netip.MustParseAddr(from), to: netip.MustParseAddrPort(to), protocol: "tcp", viaNode: viaNode}
}

// endpoint returns an endpoint on the node that the address belongs to.
func endpoint(ip string, change ...func(*discoveryv1.Endpoint)) discoveryv1.Endpoint {
	ep := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: ptr.To("there"), Conditions: discoveryv1.EndpointConditions{
		Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false),
	}}
	if strings.HasPrefix(ip, "10.42.1.") {
		ep.NodeName = ptr.To("here")
	}
	for _, f := range change {
		f(&ep)
	}
	return ep
}

func leaving(ep *discoveryv1.Endpoint) {
	ep.Conditions.Ready, ep.Conditions.Terminating = ptr.To(false), ptr.To(true)
}

func forZone(zone string) func(*discoveryv1.Endpoint) {
	return func(ep *discoveryv1.Endpoint) {
		ep.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
	}
}

func forNode(name string) func(*discoveryv1.Endpoint) {
	return func(ep *discoveryv1.Endpoint) {
		ep.Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: name}}}
	}
}

func slice(eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080)}},
	}
}

func webService(change func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.43.0.1", ClusterIPs: []string{"10.43.0.1"},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	if change != nil {
		change(svc)
	}
	return svc
}

func nodePort(svc *corev1.Service) {
	svc.Spec.Type = corev1.ServiceTypeNodePort
	svc.Spec.Ports[0].NodePort = 30080
}

func loadBalancer(svc *corev1.Service) {
	nodePort(svc)
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.1"}}
}

func externalLocal(svc *corev1.Service) {
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func all(changes ...func(*corev1.Service)) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		for _, change := range changes {
			change(svc)
		}
	}
}

var stories = []story{
	{
		name: "cluster-ip", slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA)), slice(endpoint(epC))},
		traces: []traceCase{
			{"a pod keeps its address", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080", "to 10.42.2.1:8080"}},
			{"a pod that gets back to itself does not", pkt(epA, "10.43.0.1:80", false), []string{"to 10.42.1.1:8080 masqueraded", "to 10.42.2.1:8080"}},
			{"the node is masqueraded", fromNode("10.43.0.1:80"), []string{"to 10.42.1.1:8080 masqueraded", "to 10.42.2.1:8080 masqueraded"}},
			{"another port is not ours", fromPod("10.43.0.1:81"), []string{"untouched"}},
		},
	},
	{
		name: "no-endpoints", service: all(nodePort, func(svc *corev1.Service) { svc.Spec.ExternalIPs = []string{"203.0.113.80"} }),
		traces: []traceCase{
			{"cluster IP", fromPod("10.43.0.1:80"), []string{"rejected"}},
			{"cluster IP from the node", fromNode("10.43.0.1:80"), []string{"rejected"}},
			{"node port", fromOutside("192.0.2.1:30080"), []string{"rejected"}},
			{"external IP", fromOutside("203.0.113.80:80"), []string{"rejected"}},
		},
	},
	{
		name: "node-port", service: nodePort, slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA), endpoint(epB))},
		traces: []traceCase{
			{"from outside", fromOutside("192.0.2.1:30080"), []string{"to 10.42.1.1:8080 masqueraded", "to 10.42.1.2:8080 masqueraded"}},
			{"at loopback", pkt("127.0.0.1", "127.0.0.1:30080", true), []string{"to 10.42.1.1:8080 masqueraded", "to 10.42.1.2:8080 masqueraded"}},
			{"not at other addresses", fromOutside("203.0.113.7:30080"), []string{"untouched"}},
		},
	},
	{
		name: "external-policy-local", service: all(loadBalancer, externalLocal, func(svc *corev1.Service) { svc.Spec.HealthCheckNodePort = 30999 }),
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA), endpoint(epC))},
		traces: []traceCase{
			{"from outside to here only, with its address", fromOutside("198.51.100.1:80"), []string{"to 10.42.1.1:8080"}},
			{"node port", fromOutside("192.0.2.1:30080"), []string{"to 10.42.1.1:8080"}},
			{"pods go anywhere", fromPod("198.51.100.1:80"), []string{"to 10.42.1.1:8080", "to 10.42.2.1:8080"}},
			{"so does the node", fromNode("198.51.100.1:80"), []string{"to 10.42.1.1:8080 masqueraded", "to 10.42.2.1:8080 masqueraded"}},
			{"cluster IP is not concerned", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080", "to 10.42.2.1:8080"}},
		},
	},
	{
		name: "external-policy-local-none-here", service: all(loadBalancer, externalLocal),
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epC))},
		traces: []traceCase{
			{"from outside", fromOutside("198.51.100.1:80"), []string{"dropped"}},
			{"node port", fromOutside("192.0.2.1:30080"), []string{"dropped"}},
			{"pods go anywhere", fromPod("198.51.100.1:80"), []string{"to 10.42.2.1:8080"}},
		},
	},
	{
		name: "internal-policy-local",
		service: func(svc *corev1.Service) {
			svc.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		},
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA), endpoint(epC))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080"}}},
	},
	{
		name: "internal-policy-local-none-here",
		service: func(svc *corev1.Service) {
			svc.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
		},
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epC))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"dropped"}}},
	},
	{
		name: "source-ranges", service: all(loadBalancer, func(svc *corev1.Service) {
			svc.Spec.LoadBalancerSourceRanges = []string{" 203.0.113.0/28 ", "192.0.2.0/24"}
		}),
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA))},
		traces: []traceCase{
			{"in a range", fromOutside("198.51.100.1:80"), []string{"to 10.42.1.1:8080 masqueraded"}},
			{"in none", pkt("203.0.113.77", "198.51.100.1:80", false), []string{"dropped"}},
			{"in none, node port", pkt("203.0.113.77", "192.0.2.1:30080", false), []string{"to 10.42.1.1:8080 masqueraded"}},
		},
	},
	{
		name: "session-affinity", service: func(svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA), endpoint(epB))},
		traces: []traceCase{{"a new client", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080", "to 10.42.1.2:8080"}}},
	},
	{
		name: "terminating", service: all(nodePort, externalLocal),
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA, leaving), endpoint(epC))},
		traces: []traceCase{
			{"who leaves is used where nobody else is", fromOutside("192.0.2.1:30080"), []string{"to 10.42.1.1:8080"}},
			{"and nowhere else", fromPod("10.43.0.1:80"), []string{"to 10.42.2.1:8080"}},
		},
	},
	{
		name:   "all-terminating",
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA, leaving), endpoint(epC, leaving))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080", "to 10.42.2.1:8080"}}},
	},
	{
		name:   "same-zone",
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA, forZone("z1")), endpoint(epC, forZone("z2")))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080"}}},
	},
	{
		name:   "same-zone-incomplete",
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA, forZone("z1")), endpoint(epC))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080", "to 10.42.2.1:8080"}}},
	},
	{
		name:   "same-node",
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA, forNode("here")), endpoint(epB, forNode("there")), endpoint(epC, forNode("there")))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080"}}},
	},
	{
		name: "masquerade-all", set: func(s *settings) { s.masqueradeAll = true },
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA), endpoint(epC))},
		traces: []traceCase{{"a pod does not keep its address", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080 masqueraded", "to 10.42.2.1:8080 masqueraded"}}},
	},
	{
		name: "node-port-addresses", service: nodePort, slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA))},
		set: func(s *settings) {
			s.allNodePortIPs, s.localhostNodePorts = false, false
			s.nodePortIPs = []netip.Addr{netip.MustParseAddr("127.0.0.1"), here.ips[0]}
		},
		traces: []traceCase{
			{"at the chosen address", fromOutside("192.0.2.1:30080"), []string{"to 10.42.1.1:8080 masqueraded"}},
			{"at another one of the node", fromPod("10.42.1.254:30080"), []string{"untouched"}},
			{"at loopback, where it cannot work", pkt("127.0.0.1", "127.0.0.1:30080", true), []string{"untouched"}},
		},
	},
	{
		// An address that a new pod got while the pod before it is still leaving counts as the new one.
		name:   "address-used-again",
		slices: []*discoveryv1.EndpointSlice{slice(endpoint(epA)), slice(endpoint(epA, leaving))},
		traces: []traceCase{{"cluster IP", fromPod("10.43.0.1:80"), []string{"to 10.42.1.1:8080"}}},
	},
}

// Each story's rule set is in testdata; what becomes of packets is what its cases say.
func TestStories(t *testing.T) {
	local := []netip.Addr{here.ips[0], netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.42.1.254")}
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			tables := newFakeTables()
			backend := newIPTablesBackend(tables, settings{})
			ports := servicePorts(webService(s.service), s.slices, here, corev1.IPv4Protocol)
			set := testSettings
			if s.set != nil {
				s.set(&set)
			}
			if err := backend.replace(t.Context(), map[types.NamespacedName][]servicePort{{Namespace: "ns", Name: "web"}: ports}, set); err != nil {
				t.Fatalf("%v\n%s", err, tables.last)
			}
			got := tables.dump(iptables.Filter) + tables.dump(iptables.NAT)
			compare(t, s.name, got)
			compare(t, "nftables-"+s.name, nftDump(t, ports, set))
			for _, c := range s.traces {
				if outcome := trace(tables, local, c.packet); !slices.Equal(outcome, c.want) {
					t.Errorf("%s: %s -> %s ends %q, want %q", c.what, c.from, c.to, outcome, c.want)
				}
			}
		})
	}
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".txt")
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(path); err != nil || got != string(want) {
		t.Errorf("rules differ from %s (-rewrite if they should): %v\n%s", path, err, got)
	}
}

// nftDump returns the rules of one Service in mode nftables.
func nftDump(t *testing.T, ports []servicePort, s settings) string {
	t.Helper()
	backend, fake := fakeNFTables()
	if err := backend.replace(t.Context(), map[types.NamespacedName][]servicePort{{Namespace: "ns", Name: "web"}: ports}, s); err != nil {
		t.Fatal(err)
	}
	return fake.Dump()
}

func fakeNFTables() (*nftablesBackend, *knftables.Fake) {
	fake := knftables.NewFake(knftables.IPv4Family, nftTable)
	backend := newNFTablesBackend(corev1.IPv4Protocol)
	backend.nft = fake
	return backend, fake
}

// In mode nftables too, updates lead to the same rules as writing everything, also when two Services want the same
// address and port.
func TestNFTablesUpdatesEndLikeReplace(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	kinds := []func(*corev1.Service){func(*corev1.Service) {}, nodePort, loadBalancer, all(loadBalancer, externalLocal),
		func(svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }}
	backend, fake := fakeNFTables()
	current := map[types.NamespacedName][]servicePort{}
	if err := backend.replace(t.Context(), current, testSettings); err != nil {
		t.Fatal(err)
	}
	for round := range 300 {
		changed := map[types.NamespacedName][]servicePort{}
		for range 1 + random.IntN(4) {
			i, kind := random.IntN(12), kinds[random.IntN(len(kinds))]
			name := types.NamespacedName{Namespace: "ns", Name: fmt.Sprintf("svc-%05d", i)}
			if random.IntN(3) == 0 {
				delete(current, name)
				changed[name] = nil
				continue
			}
			current[name] = numbered(i, random.IntN(5), func(_ int, svc *corev1.Service) { kind(svc) }) // one load balancer address for all
			changed[name] = current[name]
		}
		err := backend.update(t.Context(), changed)
		if err == nil && random.IntN(20) == 0 {
			err = backend.replace(t.Context(), current, testSettings)
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	freshBackend, fresh := fakeNFTables()
	if err := freshBackend.replace(t.Context(), current, testSettings); err != nil {
		t.Fatal(err)
	}
	if got, want := sortedLines(fake.Dump()), sortedLines(fresh.Dump()); got != want { // elements have no order
		t.Errorf("after updates:\n%s\nwritten at once:\n%s", got, want)
	}
}

func sortedLines(text string) string {
	return strings.Join(slices.Sorted(strings.Lines(text)), "")
}

// Many Services are written in several transactions, to the same end, and to one that does not lead astray on the way.
func TestNFTablesWritesManyServices(t *testing.T) {
	sticky := func(_ int, svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP } // with chains of its own
	all := named(2*maxServices+1, sticky)
	backend, fake := fakeNFTables()
	if err := backend.replace(t.Context(), all, testSettings); err != nil {
		t.Fatal(err)
	}
	other, updated := fakeNFTables()
	err := other.replace(t.Context(), nil, testSettings)
	if err == nil {
		err = other.update(t.Context(), all)
	}
	if err != nil {
		t.Fatal(err)
	}
	if sortedLines(fake.Dump()) != sortedLines(updated.Dump()) {
		t.Error("written in parts, the rules are not those that are written at once")
	}
	// Over what is there, it is done again, and what is gone goes.
	if err := backend.replace(t.Context(), named(maxServices+1, sticky), testSettings); err != nil {
		t.Fatal(err)
	}
	if chains, want := len(fake.Table.Chains), len(nftChains(testSettings))+6*(maxServices+1); chains != want {
		t.Errorf("there are %d chains, want %d", chains, want)
	}
}

// Another endpoint of a plain port changes elements only, whatever else there is: the kernel has no chain to check.
func TestNFTablesEndpointsAreElements(t *testing.T) {
	backend, fake := fakeNFTables()
	if err := backend.replace(t.Context(), named(10, nodePort5), testSettings); err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "ns", Name: "svc-00003"}
	for endpoints, operations := range map[int]int{
		5: 0,
		6: 0 + 2 + 2*2, // two elements more, and another verdict for the cluster IP and the node port; the chains for six are new
	} {
		if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{{Namespace: "ns", Name: "svc-00004"}: numbered(4, 6, nodePort5)}); err != nil {
			t.Fatal(err)
		}
		fake.LastTransaction = nil
		if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: numbered(3, endpoints, nodePort5)}); err != nil {
			t.Fatal(err)
		}
		text := ""
		if fake.LastTransaction != nil {
			text = fake.LastTransaction.String()
		}
		if strings.Count(text, " element ip ") != operations || strings.Count(text, "\n") != operations {
			t.Errorf("with %d endpoints:\n%swant %d operations, all on elements", endpoints, text, operations)
		}
		if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: numbered(3, 5, nodePort5)}); err != nil {
			t.Fatal(err)
		}
	}
}

// nodePort5 makes a Service one with a node port of its own.
func nodePort5(i int, svc *corev1.Service) {
	nodePort(svc)
	svc.Spec.Ports[0].NodePort = int32(30000 + i)
}

// busyChains is a kernel before 6.2: it deletes no chain in the first moment after the element that led to it.
type busyChains struct {
	*knftables.Fake
	busy bool
}

func (b *busyChains) Run(ctx context.Context, tx *knftables.Transaction) error {
	if b.busy && strings.Contains(tx.String(), "delete chain") {
		return errors.New("Device or resource busy")
	}
	return b.Fake.Run(ctx, tx)
}

// Chains that the kernel does not let go of yet go with a later change.
func TestNFTablesBusyChains(t *testing.T) {
	backend, fake := fakeNFTables()
	kernel := &busyChains{Fake: fake}
	failures := 0
	backend.nft, backend.sweepFailed = kernel, func() { failures++ }
	sticky := func(_ int, svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }
	if err := backend.replace(t.Context(), named(3, sticky), testSettings); err != nil {
		t.Fatal(err)
	}
	with := len(fake.Table.Chains)
	kernel.busy = true
	name := types.NamespacedName{Namespace: "ns", Name: "svc-00001"}
	if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: nil}); err != nil || failures != 1 || len(fake.Table.Chains) != with {
		t.Fatalf("update: %v, %d failures, %d chains; want one failure and the %d chains as before", err, failures, len(fake.Table.Chains), with)
	}
	kernel.busy = false
	if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{{Namespace: "ns", Name: "svc-00002"}: nil}); err != nil || len(fake.Table.Chains) != with-2*6 {
		t.Errorf("update: %v, %d chains, want %d: those of both Services are gone", err, len(fake.Table.Chains), with-2*6)
	}
	// One that is wanted again while it is still there is as good as new.
	kernel.busy = true
	last := types.NamespacedName{Namespace: "ns", Name: "svc-00000"}
	for _, ports := range [][]servicePort{nil, numbered(0, 5, sticky)} {
		if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{last: ports}); err != nil {
			t.Fatal(err)
		}
	}
	other, fresh := fakeNFTables()
	if err := other.replace(t.Context(), named(1, sticky), testSettings); err != nil {
		t.Fatal(err)
	}
	if got, want := sortedLines(fake.Dump()), sortedLines(fresh.Dump()); got != want || len(backend.unused) != 0 {
		t.Errorf("with %d chains unused:\n%s\nwant:\n%s", len(backend.unused), got, want)
	}
}

func TestServicesWithoutRules(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"headless":      func(svc *corev1.Service) { svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "None", []string{"None"} },
		"external name": func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeExternalName },
		"no address":    func(svc *corev1.Service) { svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil },
		"other proxy":   func(svc *corev1.Service) { svc.Labels = map[string]string{labelServiceProxyName: "other"} },
		"other family":  func(svc *corev1.Service) { svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "fd43::1", []string{"fd43::1"} },
	} {
		if ports := servicePorts(webService(change), []*discoveryv1.EndpointSlice{slice(endpoint(epA))}, here, corev1.IPv4Protocol); ports != nil {
			t.Errorf("%s: %+v, want nothing", name, ports)
		}
	}
}

// A kernel that cannot match SCTP costs the SCTP ports, not all Services. When it can, they work at the next full sync.
func TestSCTPWithoutKernelSupport(t *testing.T) {
	tables := newFakeTables()
	tables.noSCTP = true
	backend := newIPTablesBackend(tables, settings{})
	services := named(2, nil)
	if err := backend.replace(t.Context(), services, testSettings); err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "ns", Name: "svc-00000"}
	mixed := slices.Clone(services[name])
	mixed = append(mixed, mixed[0])
	mixed[1].protocol, mixed[1].port = "sctp", 81
	services[name] = mixed
	has := func(protocol string) bool {
		return strings.Contains(tables.dump(iptables.NAT), "-A KUBE-SERVICES -m comment --comment \"ns/svc-00000:http cluster IP\" -m "+protocol)
	}
	if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: mixed}); err != nil {
		t.Fatal(err)
	}
	if !has("tcp") || has("sctp") || len(mixed) != 2 {
		t.Errorf("without SCTP in the kernel:\n%s", tables.dump(iptables.NAT))
	}
	tables.noSCTP = false
	if err := backend.replace(t.Context(), services, testSettings); err != nil {
		t.Fatal(err)
	}
	if !has("tcp") || !has("sctp") {
		t.Errorf("with SCTP in the kernel:\n%s", tables.dump(iptables.NAT))
	}
	if rules := tables.chains[iptables.NAT][canaryChain]; len(rules) > 0 {
		t.Errorf("the probe left %q", rules)
	}
	// A failure that has nothing to do with SCTP is no answer.
	backend = newIPTablesBackend(tables, settings{})
	tables.noSCTP, tables.busy = false, true
	if err := backend.replace(t.Context(), services, testSettings); err == nil || backend.sctp != unknown {
		t.Errorf("with a busy lock: %v, SCTP support %v; want an error and unknown", err, backend.sctp)
	}
}

// Chain names are upstream's for the same Service.
func TestChainNames(t *testing.T) {
	p := &servicePort{name: "default/kubernetes:https", protocol: "tcp"}
	if got, want := chainsOf(p).cluster, "KUBE-SVC-NPX46M4PTMTKRN6Y"; got != want { // the best known chain of all
		t.Errorf("chain = %s, want %s", got, want)
	}
}

// named returns n Services with five endpoints each.
func named(n int, change func(i int, svc *corev1.Service)) map[types.NamespacedName][]servicePort {
	services := map[types.NamespacedName][]servicePort{}
	for i := range n {
		name := types.NamespacedName{Namespace: "ns", Name: fmt.Sprintf("svc-%05d", i)}
		services[name] = numbered(i, 5, change)
	}
	return services
}

func numbered(i, endpoints int, change func(i int, svc *corev1.Service)) []servicePort {
	svc := webService(func(svc *corev1.Service) {
		svc.Name = fmt.Sprintf("svc-%05d", i)
		svc.Spec.ClusterIPs = []string{netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)}).String()}
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
		if change != nil {
			change(i, svc)
		}
	})
	var eps []discoveryv1.Endpoint
	for e := range endpoints {
		eps = append(eps, endpoint(netip.AddrFrom4([4]byte{10, 42, byte(e), byte(i)}).String()))
	}
	return servicePorts(svc, []*discoveryv1.EndpointSlice{slice(eps...)}, here, corev1.IPv4Protocol)
}

// One endpoint more changes the chain that leads to it, and adds its own; nothing else is written.
func TestOnlyChangedChainsAreWritten(t *testing.T) {
	tables := newFakeTables()
	backend := newIPTablesBackend(tables, settings{})
	if err := backend.replace(t.Context(), named(10, nil), testSettings); err != nil {
		t.Fatal(err)
	}
	name := types.NamespacedName{Namespace: "ns", Name: "svc-00003"}
	ports := numbered(3, 6, nil)
	if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: ports}); err != nil {
		t.Fatal(err)
	}
	var written []string
	for line := range strings.Lines(tables.last) {
		if strings.HasPrefix(line, ":") {
			written = append(written, line)
		}
	}
	want := []string{
		":" + chainsOf(&ports[0]).cluster + " - [0:0]\n",
		":" + endpointChain(&ports[0], netip.MustParseAddrPort("10.42.5.3:8080")) + " - [0:0]\n",
	}
	if !slices.Equal(written, want) {
		t.Errorf("written:\n%swant:\n%s", written, want)
	}
	tables.last = ""
	if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: numbered(3, 6, nil)}); err != nil || tables.last != "" {
		t.Errorf("update without a difference: %v, wrote %q", err, tables.last)
	}
}

// Many chains are written in several transactions, each of which the kernel takes by itself.
func TestManyChains(t *testing.T) {
	tables := newFakeTables()
	services := named(400, nil)
	if err := newIPTablesBackend(tables, settings{}).replace(t.Context(), services, testSettings); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(tables.last, "*nat\n"); n != 3 {
		t.Errorf("%d transactions for 2400 chains, want 3", n)
	}
	for name, ports := range services {
		if rules := tables.chains[iptables.NAT][chainsOf(&ports[0]).cluster]; len(rules) != 6 {
			t.Errorf("%s has %d rules, want 6", name, len(rules))
		}
	}
}

// However Services change, and whatever fails, updates lead to the same rules as writing everything.
func TestUpdatesEndLikeReplace(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	kinds := []func(*corev1.Service){func(*corev1.Service) {}, nodePort, loadBalancer, all(loadBalancer, externalLocal),
		func(svc *corev1.Service) { svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }}
	tables := newFakeTables()
	backend := newIPTablesBackend(tables, settings{})
	current := map[types.NamespacedName][]servicePort{}
	if err := backend.replace(t.Context(), current, testSettings); err != nil {
		t.Fatal(err)
	}
	for round := range 300 {
		changed := map[types.NamespacedName][]servicePort{}
		for range 1 + random.IntN(4) {
			i, kind := random.IntN(12), kinds[random.IntN(len(kinds))]
			name := types.NamespacedName{Namespace: "ns", Name: fmt.Sprintf("svc-%05d", i)}
			if random.IntN(3) == 0 {
				delete(current, name)
				changed[name] = nil
				continue
			}
			current[name] = numbered(i, random.IntN(5), func(i int, svc *corev1.Service) {
				if kind(svc); svc.Spec.Ports[0].NodePort != 0 {
					svc.Spec.Ports[0].NodePort += int32(i)
				}
			})
			changed[name] = current[name]
		}
		if random.IntN(10) == 0 {
			tables.fail = errors.New("resource temporarily unavailable")
		}
		err := backend.update(t.Context(), changed)
		if err != nil && err.Error() == "resource temporarily unavailable" {
			err = backend.replace(t.Context(), current, testSettings)
		}
		if err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, tables.last)
		}
		tables.fail = nil
	}
	fresh := newFakeTables()
	if err := newIPTablesBackend(fresh, settings{}).replace(t.Context(), current, testSettings); err != nil {
		t.Fatal(err)
	}
	last := "-A KUBE-SERVICES " + tables.chains[iptables.NAT][servicesChain][len(tables.chains[iptables.NAT][servicesChain])-1] + "\n"
	if last != lastRules(natServices, testSettings) {
		t.Errorf("the last rule for Services is %s", last)
	}
	for _, table := range []iptables.Table{iptables.Filter, iptables.NAT} {
		rules := 0
		for _, chain := range tables.chains[table] {
			rules += len(chain)
		}
		if counted := *backend.rules.in(table); counted != rules {
			t.Errorf("%d rules are counted in %s, want %d", counted, table, rules)
		}
	}
	for _, f := range []*fakeTables{tables, fresh} { // the order of the others does not matter
		for _, s := range sharedChains {
			slices.Sort(f.chains[s.table][s.chain])
		}
	}
	for _, table := range []iptables.Table{iptables.Filter, iptables.NAT, iptables.Mangle} {
		if got, want := tables.dump(table), fresh.dump(table); got != want {
			t.Errorf("%s after updates:\n%s\nwritten at once:\n%s", table, got, want)
		}
	}
}

// The work is in proportion to what changed: one endpoint among 50,000 costs far less than 50 ms.
func TestUpdateOfLargeCluster(t *testing.T) {
	tables := &discard{}
	backend := newIPTablesBackend(tables, settings{})
	if err := backend.replace(t.Context(), named(10000, nil), testSettings); err != nil {
		t.Fatal(err)
	}
	best := time.Hour
	for i := range 5 {
		start := time.Now()
		name := types.NamespacedName{Namespace: "ns", Name: "svc-05000"}
		if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: numbered(5000, 4+i%2, nil)}); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	t.Logf("one endpoint of 50,000: %v, %d bytes", best, tables.bytes)
	if best > 50*time.Millisecond || tables.bytes > 10000 {
		t.Errorf("one endpoint of 50,000 took %v and %d bytes, want less than 50ms and 10 kB", best, tables.bytes)
	}
	for _, ports := range [][]servicePort{numbered(10000, 5, nil), nil} {
		change := map[types.NamespacedName][]servicePort{{Namespace: "ns", Name: "svc-10000"}: ports}
		if err := backend.update(t.Context(), change); err != nil || tables.bytes > 10000 {
			t.Errorf("one Service with %d ports more: %v, %d bytes, want less than 10 kB", len(ports), err, tables.bytes)
		}
	}
}

// discard takes everything.
type discard struct {
	fakeTables
	bytes int
}

func (d *discard) Restore(_ context.Context, input []byte) error { d.bytes = len(input); return nil }

// Ranges of one family say nothing of the other, whose addresses all take node ports; so they do where a range has all.
func TestNodePortRanges(t *testing.T) {
	for _, c := range []struct {
		ranges []string
		open   []string // of the addresses below
		all    []corev1.IPFamily
	}{
		{nil, []string{"127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"}, families},
		{[]string{"192.0.2.0/24"}, []string{"192.0.2.1", "::1", "2001:db8::1"}, []corev1.IPFamily{corev1.IPv6Protocol}},
		{[]string{"2001:db8::/64", "127.0.0.0/8"}, []string{"127.0.0.1", "2001:db8::1"}, nil},
		{[]string{"192.0.2.0/24", "0.0.0.0/0", "::1/128"}, []string{"127.0.0.1", "192.0.2.1", "::1"}, []corev1.IPFamily{corev1.IPv4Protocol}},
	} {
		p := &Proxy{}
		for _, text := range c.ranges {
			p.cfg.NodePortAddresses = append(p.cfg.NodePortAddresses, netip.MustParsePrefix(text))
		}
		var open []string
		for _, ip := range []string{"127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"} {
			if p.cfg.takesNodePorts(netip.MustParseAddr(ip)) {
				open = append(open, ip)
			}
			p.here.nodePortIPs = append(p.here.nodePortIPs, netip.MustParseAddr(ip))
		}
		if !slices.Equal(open, c.open) {
			t.Errorf("%v: open are %v, want %v", c.ranges, open, c.open)
		}
		for _, family := range families {
			s, want := p.settings(family), slices.Contains(c.all, family)
			if s.allNodePortIPs != want || (len(s.nodePortIPs) == 0) != want {
				t.Errorf("%v: of %s all is %t with %v, want %t", c.ranges, family, s.allNodePortIPs, s.nodePortIPs, want)
			}
		}
	}
}

// Packets to node ports at 127.0.0.1 are counted before they are led on as all are, whichever way the rules were written. Where
// the counters or the match are missing, there is only the latter.
func TestPacketCounters(t *testing.T) {
	for _, c := range []struct {
		noMatch  bool
		counters func(string) error
		want     int
	}{
		{false, func(string) error { return nil }, 2},
		{true, func(string) error { return nil }, 1},
		{false, func(string) error { return errors.New("not in this kernel") }, 1},
		{false, nil, 1},
	} {
		tables := newFakeTables()
		tables.noCounters = c.noMatch
		backend := newIPTablesBackend(tables, settings{})
		backend.counters = c.counters
		if err := backend.replace(t.Context(), named(2, nil), testSettings); err != nil {
			t.Fatal(err)
		}
		write := func(ports []servicePort) []string {
			t.Helper()
			name := types.NamespacedName{Namespace: "ns", Name: "svc-00001"}
			if err := backend.update(t.Context(), map[types.NamespacedName][]servicePort{name: ports}); err != nil {
				t.Fatal(err)
			}
			return tables.chains[iptables.NAT][nodePortsChain]
		}
		rules := write(numbered(1, 5, nodePort5))
		if len(rules) != c.want || strings.Contains(rules[0], localhostCounter) != (c.want == 2) || strings.Contains(rules[c.want-1], localhostCounter) {
			t.Errorf("%+v: rules %q", c, rules)
		}
		if rules := write(nil); len(rules) != 0 {
			t.Errorf("%+v: left %q", c, rules)
		}
		invalid := tables.chains[iptables.Filter][forwardChain][0]
		if strings.Contains(invalid, invalidCounter) != (c.want == 2) {
			t.Errorf("%+v: %s", c, invalid)
		}
	}
}
