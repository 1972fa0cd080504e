// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/skiff-k8s/skiff/network/addresspool"
	"github.com/skiff-k8s/skiff/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

func node(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

func TestOwner(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.200")
	excluded := node("b", corev1.ConditionTrue)
	excluded.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	leaving := node("b", corev1.ConditionTrue)
	leaving.DeletionTimestamp = &metav1.Time{}
	for _, c := range []struct {
		about string
		nodes []*corev1.Node
		want  string
	}{
		{"none", nil, ""},
		{"the ready one", []*corev1.Node{node("a", corev1.ConditionUnknown), node("b", corev1.ConditionTrue)}, "b"},
		{"none is ready", []*corev1.Node{node("a", corev1.ConditionUnknown)}, "a"},
		{"one is excluded", []*corev1.Node{node("a", corev1.ConditionFalse), excluded}, "a"},
		{"one is leaving", []*corev1.Node{node("a", corev1.ConditionTrue), leaving}, "a"},
	} {
		if got := owner(addr, c.nodes); got != c.want {
			t.Errorf("%s: %q, want %q", c.about, got, c.want)
		}
	}
}

// Addresses are spread over nodes, and only those of a lost node move.
func TestOwnersMoveLittle(t *testing.T) {
	var nodes, rest []*corev1.Node
	for i := range 5 {
		nodes = append(nodes, node(fmt.Sprint("n", i), corev1.ConditionTrue))
	}
	rest = append(rest, nodes[1:]...)
	count := map[string]int{}
	for i := range 250 {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
		before, after := owner(addr, nodes), owner(addr, rest)
		count[before]++
		if before != "n0" && before != after {
			t.Errorf("%s moved from %s to %s", addr, before, after)
		}
	}
	for _, n := range nodes {
		if count[n.Name] < 20 {
			t.Errorf("%s has %d of 250 addresses", n.Name, count[n.Name])
		}
	}
}

func TestARP(t *testing.T) {
	for _, b := range [][]byte{nil, make([]byte, 28), []byte(strings.Repeat("x", 40))} {
		if _, err := parseARP(b); err == nil {
			t.Errorf("%x was taken for ARP", b)
		}
	}
	m := arp{arpReply, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("192.0.2.1"), net.HardwareAddr{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("192.0.2.2")}
	if got, err := parseARP(m.marshal()); err != nil || fmt.Sprint(got) != fmt.Sprint(m) {
		t.Errorf("%v, %v; want %v", got, err, m)
	}
}

const (
	hereIP    = "192.0.2.1"
	otherIP   = "192.0.2.2"
	balanced  = "192.0.2.200"
	balanced6 = "2001:db8::200"
)

// lan is a link between this machine, which announces, and another one.
type lan struct {
	*testing.T
	client *fake.Clientset
	other  string // namespace
}

func newLAN(t *testing.T, objects ...runtime.Object) *lan {
	l := &lan{T: t, client: fake.NewClientset(objects...), other: nettest.NewNetns(t, "other")}
	// Package net remembers indexes of interfaces by their name for a minute.
	link := "up-" + strings.ToLower(t.Name()[4:min(len(t.Name()), 15)])
	nettest.Connect(t, "", link, hereIP+"/24", l.other, "eth0", otherIP+"/24")
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", link).Run() })
	l.inOther("ip", "-6", "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
	nettest.Eventually(t, "the link-local address is there", func() error {
		out, err := exec.Command("ip", "-6", "addr", "show", "dev", link, "scope", "link").CombinedOutput()
		if err == nil && (!strings.Contains(string(out), "fe80") || strings.Contains(string(out), "tentative")) {
			err = errors.New(string(out))
		}
		return err
	})
	pool, err := addresspool.Parse([]string{"192.0.2.200-192.0.2.210", "2001:db8::200/120"})
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(l.client, 0)
	a := New(Config{NodeName: "here", NodeIP: netip.MustParseAddr(hereIP), Pool: pool}, l.client, factory)
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	return l
}

func (l *lan) inOther(command ...string) string {
	l.Helper()
	var out []byte
	err := nettest.In(l, l.other, func() (err error) {
		out, err = exec.Command(command[0], command[1:]...).CombinedOutput()
		return err
	})
	if err != nil {
		l.Fatalf("%v: %v: %s", command, err, out)
	}
	return string(out)
}

// resolves asks, in the other machine, who has an address.
func (l *lan) resolves(addr string) bool {
	l.Helper()
	l.inOther("ip", "neigh", "flush", "dev", "eth0")
	_ = nettest.In(l, l.other, func() error {
		conn, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err == nil {
			_, err = conn.Write([]byte("?"))
			conn.Close()
		}
		return err
	})
	for range 50 {
		out := l.inOther("ip", "neigh", "show", addr, "dev", "eth0")
		if strings.Contains(out, "lladdr") {
			return true
		}
		if strings.Contains(out, "FAILED") {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

func (l *lan) await(addr string, want bool) {
	l.Helper()
	nettest.Eventually(l, fmt.Sprintf("%s is announced: %v", addr, want), func() error {
		if l.resolves(addr) != want {
			return fmt.Errorf("it is %v", !want)
		}
		return nil
	})
}

func balancer(local bool, addresses ...string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	if local {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	for _, addr := range addresses {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr})
	}
	return svc
}

// The kernel of another machine finds the addresses here, as long as they are a Service's.
func TestAnnounces(t *testing.T) {
	l := newLAN(t, node("here", corev1.ConditionTrue), balancer(false, balanced, balanced6, "198.51.100.1"))
	l.await(balanced, true)
	l.await(balanced6, true)
	if l.resolves("192.0.2.201") {
		t.Error("an address of no Service is announced")
	}
	if err := l.client.CoreV1().Services("ns").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	l.await(balanced, false)
	l.await(balanced6, false)
}

// An address may go and come again while others stay.
func TestComesAgain(t *testing.T) {
	l := newLAN(t, node("here", corev1.ConditionTrue), balancer(false, "2001:db8::201"))
	l.await("2001:db8::201", true)
	services := l.client.CoreV1().Services("ns")
	for _, addresses := range [][]string{{balanced6, "2001:db8::201"}, {"2001:db8::201"}, {balanced6, "2001:db8::201"}} {
		if _, err := services.Update(t.Context(), balancer(false, addresses...), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		l.await(balanced6, len(addresses) == 2)
	}
}

// With externalTrafficPolicy Local the node needs an endpoint.
func TestAnnouncesLocal(t *testing.T) {
	l := newLAN(t, node("here", corev1.ConditionTrue), balancer(true, balanced))
	here := "here"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.5"}, NodeName: &here}},
	}
	if l.resolves(balanced) {
		t.Error("it is announced without an endpoint")
	}
	if _, err := l.client.DiscoveryV1().EndpointSlices("ns").Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.await(balanced, true)
}

// Who had the address before learns at once that it has moved.
func TestTellsAll(t *testing.T) {
	l := newLAN(t, node("here", corev1.ConditionTrue))
	l.inOther("ip", "neigh", "add", balanced, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "reachable")
	l.inOther("ip", "-6", "neigh", "add", balanced6, "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "reachable")
	if _, err := l.client.CoreV1().Services("ns").Create(t.Context(), balancer(false, balanced, balanced6), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{balanced, balanced6} {
		nettest.Eventually(t, "the other machine knows where "+addr+" is", func() error {
			if out := l.inOther("ip", "neigh", "show", addr, "dev", "eth0"); !strings.Contains(out, "lladdr") || strings.Contains(out, "02:00:00:00:00:99") {
				return errors.New(out)
			}
			return nil
		})
	}
}

// Another machine says that it has the address. With a server this node knows better, and says so; without one it gives way,
// until there is a server again.
func TestContested(t *testing.T) {
	l := newLAN(t, node("here", corev1.ConditionTrue), balancer(false, balanced))
	l.await(balanced, true)
	l.claims()
	l.await(balanced, true)

	server := make(chan struct{}) // closed when it is back
	l.client.PrependReactor("list", "nodes", func(ktesting.Action) (bool, runtime.Object, error) {
		select {
		case <-server:
			return false, nil, nil
		default:
			return true, nil, errors.New("connection refused")
		}
	})
	nettest.Eventually(t, "it gives way", func() error {
		l.claims()
		if l.resolves(balanced) {
			return errors.New("it still answers")
		}
		return nil
	})
	close(server)
	l.await(balanced, true)
}

// claims sends a gratuitous ARP from the other machine.
func (l *lan) claims() {
	l.Helper()
	err := nettest.In(l, l.other, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		w, err := openARP(link)
		if err != nil {
			return err
		}
		defer w.Close()
		return w.tell(netip.MustParseAddr(balanced))
	})
	if err != nil {
		l.Fatal(err)
	}
}
