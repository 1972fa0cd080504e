// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/network"
	"github.com/skiff-k8s/skiff/network/nettest"
	"github.com/skiff-k8s/skiff/network/policy"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// machine is a node in its own network namespace, with the real pod network and the real rules.
type machine struct {
	t      *testing.T
	client *fake.Clientset
	socket string
}

func newMachine(t *testing.T, objects ...*networkingv1.NetworkPolicy) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{t: t, client: fake.NewClientset(), socket: filepath.Join(dir, "cni.sock")}
	for _, ns := range []string{"x", "z"} {
		m.must(m.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"ns": ns}}}, metav1.CreateOptions{}))
	}
	for _, p := range objects {
		m.must(m.client.NetworkingV1().NetworkPolicies(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{}))
	}
	factory := informers.NewSharedInformerFactory(m.client, 0)
	enforcer, err := policy.New(policy.Config{CheckPeriod: time.Second}, factory)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := network.New(network.Config{
		DataDir: dir, Socket: m.socket, ConfDir: dir, PluginType: "skiff", Bridge: "skiff0", Policy: enforcer,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := pods.SetPodCIDRs([]string{"10.42.7.0/24", "fd42:0:0:7::/64"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 2)
	go func() { done <- pods.Run(ctx) }()
	go func() { done <- enforcer.Run(ctx) }()
	nettest.Eventually(t, "pod network", func() error { _, err := os.Stat(filepath.Join(dir, "10-skiff.conflist")); return err })
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
		if err := errors.Join(<-done, <-done, policy.Cleanup(), pods.Cleanup(context.Background())); err != nil {
			t.Error(err)
		}
		if tables := m.nft("list", "tables"); strings.Contains(tables, "skiff-policy") {
			t.Errorf("after the clean-up there are tables:\n%s", tables)
		}
	})
	return m
}

func (m *machine) must(_ any, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// nft returns what the command says.
func (m *machine) nft(args ...string) string {
	m.t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		m.t.Errorf("nft %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

type testPod struct {
	namespace, name, netns string
	addrs                  []string
}

// pod attaches a pod that answers at port 8080, TCP and UDP, with its name.
func (m *machine) pod(namespace, name string, labels map[string]string) *testPod {
	m.t.Helper()
	m.must(m.client.CoreV1().Pods(namespace).Create(m.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
	}, metav1.CreateOptions{}))
	return m.attach(namespace, name)
}

func (m *machine) attach(namespace, name string) *testPod {
	m.t.Helper()
	p := &testPod{namespace: namespace, name: name, netns: nettest.NewNetns(m.t, name)}
	p.addrs = nettest.AttachPod(m.t, m.socket, name, p.netns, namespace, name)
	nettest.Serve(m.t, p.netns, "tcp", ":8080", name)
	nettest.Serve(m.t, p.netns, "udp", p.addrs[0]+":8080", name)
	return p
}

func parse(t *testing.T, text string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func (m *machine) policy(text string) {
	m.t.Helper()
	p := parse(m.t, text)
	policies := m.client.NetworkingV1().NetworkPolicies(p.Namespace)
	if _, err := policies.Update(m.t.Context(), p, metav1.UpdateOptions{}); err == nil {
		return
	}
	m.must(policies.Create(m.t.Context(), p, metav1.CreateOptions{}))
}

// reaches waits until a namespace ("" is the node's own) reaches all addresses of a pod.
func (m *machine) reaches(from string, to *testPod) {
	m.t.Helper()
	for _, addr := range to.addrs {
		nettest.Eventually(m.t, fmt.Sprintf("%q reaches %s at %s", from, to.name, addr), func() error {
			_, _, err := nettest.Ask(m.t, from, "tcp", net.JoinHostPort(addr, "8080"))
			return err
		})
	}
	nettest.Eventually(m.t, fmt.Sprintf("%q reaches %s by UDP", from, to.name), func() error {
		_, _, err := nettest.Ask(m.t, from, "udp", to.addrs[0]+":8080")
		return err
	})
}

// cut waits until a namespace cannot reach a pod.
func (m *machine) cut(from string, to *testPod) {
	m.t.Helper()
	for _, addr := range to.addrs {
		nettest.Eventually(m.t, fmt.Sprintf("%q cannot reach %s at %s", from, to.name, addr), func() error {
			return unreachable(m.t, from, addr)
		})
	}
}

func unreachable(t *testing.T, from, addr string) error {
	err := nettest.In(t, from, func() error {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, "8080"), 200*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err == nil {
		return errors.New("connected")
	}
	return nil
}

// The whole life: nothing without policies; isolation with one; peers that come; policies that go.
func TestPolicies(t *testing.T) {
	m := newMachine(t)
	a := m.pod("x", "a", map[string]string{"app": "a"})
	b := m.pod("x", "b", map[string]string{"app": "b"})
	c := m.pod("z", "c", map[string]string{"app": "c"})
	m.reaches(b.netns, a)
	m.reaches(c.netns, a)
	if tables := m.nft("list", "ruleset"); strings.Contains(tables, "skiff-policy") {
		t.Fatalf("without a policy there are rules:\n%s", tables)
	}

	const deny = `{metadata: {namespace: x, name: one}, spec: {podSelector: {}, policyTypes: [Ingress]}}`
	m.policy(deny)
	m.cut(b.netns, a)
	m.nft("list", "ruleset") // which the command can only if it understands our rules
	m.cut(c.netns, a)
	m.reaches("", a) // probes
	m.reaches(a.netns, a)
	m.reaches(a.netns, c) // answers come back

	m.policy(`{metadata: {namespace: x, name: one}, spec: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: b}}}, {ipBlock: {cidr: "fd42::/16"}}, {ipBlock: {cidr: 10.42.0.0/16, except: [10.42.7.0/24]}}]}]}}`)
	m.reaches(b.netns, a)
	if _, _, err := nettest.Ask(t, c.netns, "tcp", net.JoinHostPort(a.addrs[1], "8080")); err != nil {
		t.Errorf("an ipBlock of IPv6 does not let in: %v", err)
	}
	if err := unreachable(t, c.netns, a.addrs[0]); err != nil {
		t.Errorf("an exception of an ipBlock: %v", err)
	}

	m.policy(`{metadata: {namespace: x, name: one}, spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: http}]}]}}`)
	m.cut(b.netns, a)
	nettest.Eventually(t, "c reaches a at the named port", func() error {
		_, _, err := nettest.Ask(t, c.netns, "tcp", a.addrs[0]+":8080")
		return err
	})
	if name, _, err := nettest.Ask(t, c.netns, "udp", a.addrs[0]+":8080"); err == nil {
		t.Errorf("%s answers by UDP, and the port is one of TCP", name)
	}

	m.policy(`{metadata: {namespace: x, name: one}, spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: late}}}]}]}}`)
	m.cut(b.netns, a)
	m.reaches(a.netns, b)
	m.cut(b.netns, c)
	late := m.pod("z", "late", map[string]string{"app": "late"})
	m.reaches(b.netns, late)
	if err := m.client.NetworkingV1().NetworkPolicies("x").Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	m.reaches(b.netns, a)
	nettest.Eventually(t, "no rule is left", func() error {
		if tables := m.nft("list", "tables"); strings.Contains(tables, "skiff-policy") {
			return errors.New(tables)
		}
		return nil
	})
}

// A policy is in force before a pod's first packet, also if the API has not told the pod yet, and gone with it.
func TestPolicyIsThereFirst(t *testing.T) {
	m := newMachine(t, parse(t, `{metadata: {namespace: x, name: one}, spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress, Egress]}}`))
	c := m.pod("z", "c", nil)
	for round := range 5 {
		name := fmt.Sprintf("a%d", round)
		a := m.attach("x", name)
		for _, addr := range a.addrs {
			if err := unreachable(t, c.netns, addr); err != nil {
				t.Errorf("%s as soon as it is there: %v", name, err)
			}
		}
		if err := unreachable(t, a.netns, c.addrs[0]); err != nil {
			t.Errorf("from %s as soon as it is there: %v", name, err)
		}
		m.must(m.client.CoreV1().Pods("x").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name}}, metav1.CreateOptions{}))
		m.reaches(c.netns, a) // it turns out that no policy selects it
		nettest.Detach(t, m.socket, name, a.netns)
		if rules := m.nft("list", "ruleset"); strings.Contains(rules, a.addrs[0]) {
			t.Errorf("rules of %s stay after it has gone:\n%s", name, rules)
		}
	}
}

// A connection that a new policy forbids ends, in whichever direction the data flows.
func TestConnectionsFollow(t *testing.T) {
	m := newMachine(t)
	a, b := m.pod("x", "a", map[string]string{"app": "a"}), m.pod("x", "b", nil)
	var listener net.Listener
	var conn net.Conn
	if err := nettest.In(t, a.netns, func() (err error) {
		listener, err = net.Listen("tcp", ":9000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() { // writes as long as it can
		conn, err := listener.Accept()
		for err == nil {
			_, err = conn.Write([]byte("tick\n"))
			time.Sleep(time.Millisecond)
		}
	}()
	if err := nettest.In(t, b.netns, func() (err error) {
		conn, err = net.DialTimeout("tcp", a.addrs[0]+":9000", 5*time.Second)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	flows := func() error {
		conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := io.ReadFull(conn, make([]byte, 500))
		return err
	}
	udp := nettest.Dial(t, b.netns, a.addrs[0]+":8080")
	if _, err := udp(); err != nil || flows() != nil {
		t.Fatalf("without a policy: %v, %v", err, flows())
	}
	m.policy(`{metadata: {namespace: x, name: one}, spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Ingress]}}`)
	nettest.Eventually(t, "the connection ends", func() error {
		if flows() == nil {
			return errors.New("it flows")
		}
		if _, err := udp(); err == nil {
			return errors.New("UDP flows")
		}
		return nil
	})
	m.policy(`{metadata: {namespace: x, name: one}, spec: {podSelector: {matchLabels: {app: a}}, ingress: [{}]}}`)
	nettest.Eventually(t, "the connection goes on", func() error {
		_, err := udp()
		return errors.Join(flows(), err)
	})
}

// Rules that somebody removes come back.
func TestRulesComeBack(t *testing.T) {
	m := newMachine(t, parse(t, `{metadata: {namespace: x, name: one}, spec: {podSelector: {}, policyTypes: [Ingress]}}`))
	a, c := m.pod("x", "a", nil), m.pod("z", "c", nil)
	m.cut(c.netns, a)
	m.nft("flush", "table", "ip", "skiff-policy")
	m.cut(c.netns, a)
	m.nft("delete", "table", "ip6", "skiff-policy")
	b := m.pod("x", "b", nil) // at once: the rules of the new pod have nothing to be added to
	if err := unreachable(t, c.netns, b.addrs[1]); err != nil {
		t.Error(err)
	}
	m.cut(c.netns, a)
}

// Policies are about SCTP too, whether or not the kernel can speak it: packets are made by hand.
func TestSCTP(t *testing.T) {
	m := newMachine(t)
	a, b := m.pod("x", "a", map[string]string{"app": "a"}), m.pod("x", "b", nil)
	var raw net.PacketConn
	if err := nettest.In(t, a.netns, func() (err error) {
		raw, err = net.ListenPacket("ip4:132", a.addrs[0])
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	arrives := func(port uint16) error {
		if err := nettest.In(t, b.netns, func() error {
			conn, err := net.Dial("ip4:132", a.addrs[0])
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(sctpInit(port))
			return err
		}); err != nil {
			return err
		}
		packet := make([]byte, 1500)
		for {
			raw.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			n, _, err := raw.ReadFrom(packet)
			if err != nil {
				return err
			}
			if n >= 12 && binary.BigEndian.Uint16(packet[2:]) == port {
				return nil
			}
		}
	}
	for _, port := range []uint16{7, 8} {
		nettest.Eventually(t, fmt.Sprintf("SCTP arrives at port %d", port), func() error { return arrives(port) })
	}
	m.policy(`{metadata: {namespace: x, name: one}, spec: {podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{protocol: SCTP, port: 7}]}]}}`)
	nettest.Eventually(t, "SCTP does not arrive at port 8", func() error {
		if arrives(8) == nil {
			return errors.New("it does")
		}
		return nil
	})
	nettest.Eventually(t, "SCTP arrives at port 7", func() error { return arrives(7) })
	m.cut(b.netns, a) // by TCP
}

// sctpInit is the first packet of an association, RFC 9260.
func sctpInit(port uint16) []byte {
	p := make([]byte, 32)
	binary.BigEndian.PutUint16(p, uint16(20000+rand.IntN(20000)))
	binary.BigEndian.PutUint16(p[2:], port)
	p[12], p[15] = 1, 20 // chunk INIT and its length
	binary.BigEndian.PutUint32(p[16:], rand.Uint32()|1)
	binary.BigEndian.PutUint32(p[20:], 65536)
	p[25], p[27] = 1, 1 // streams out and in
	binary.BigEndian.PutUint32(p[28:], 1)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return p
}
