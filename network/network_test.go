// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/skiff-k8s/skiff/network/iptables"
	"github.com/skiff-k8s/skiff/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// node is a running Network with the real plugin binary.
type node struct {
	t      testing.TB
	cfg    Config
	net    *Network
	plugin string
	stop   func()
}

func newNode(t testing.TB, cidrs ...string) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, plugin: filepath.Join(dir, "skiff-cni"), cfg: Config{
		DataDir:    dir,
		Socket:     filepath.Join(dir, "cni.sock"),
		ConfDir:    filepath.Join(dir, "net.d"),
		PluginType: "skiff-cni",
		Bridge:     "skiff0",
		ClusterCIDRs: []netip.Prefix{
			netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56"),
		},
	}}
	if out, err := exec.Command("go", "build", "-ldflags", "-s -w", "-o", n.plugin, "./thincni").CombinedOutput(); err != nil {
		t.Fatalf("build thincni: %v\n%s", err, out)
	}
	n.start(cidrs...)
	t.Cleanup(func() {
		n.stop()
		if err := n.net.Cleanup(context.Background()); err != nil {
			t.Errorf("Cleanup: %v", err)
		}
	})
	return n
}

func (n *node) start(cidrs ...string) {
	n.t.Helper()
	var err error
	if n.net, err = New(n.cfg); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.net.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("Run: %v", err)
		}
	}
	if err := n.net.SetPodCIDRs(cidrs); err != nil {
		n.t.Fatal(err)
	}
	nettest.Eventually(n.t, "network is ready", n.net.status)
}

// call executes the plugin as a container runtime does.
func (n *node) call(command, id, netns, extra string) (string, error) {
	config := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"skiff","type":"skiff-cni","socket":%q%s}`, n.cfg.Socket, extra)
	cmd := exec.Command(n.plugin)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin"}
	cmd.Stdin = strings.NewReader(config)
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	err := cmd.Run()
	return stdout.String(), err
}

// pod is a network namespace attached to the node.
type pod struct {
	id, netns string
	addrs     []string
}

func (n *node) addPod(id, extra string) *pod {
	n.t.Helper()
	p := &pod{id: id, netns: nettest.NewNetns(n.t, id)}
	out, err := n.call("ADD", id, p.netns, extra)
	if err != nil {
		n.t.Fatalf("ADD %s: %v: %s", id, err, out)
	}
	var res result
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		n.t.Fatalf("ADD %s printed %q: %v", id, out, err)
	}
	if len(res.Interfaces) != 3 || res.Interfaces[2].Name != "eth0" || res.Interfaces[2].Sandbox != p.netns {
		n.t.Fatalf("ADD interfaces = %+v", res.Interfaces)
	}
	for _, ip := range res.IPs {
		if ip.Interface != 2 {
			n.t.Errorf("ADD %s is on interface %d, want 2, the pod's", ip.Address, ip.Interface)
		}
		p.addrs = append(p.addrs, ip.Address.Addr().String())
	}
	return p
}

func (n *node) delPod(p *pod) {
	n.t.Helper()
	if out, err := n.call("DEL", p.id, p.netns, ""); err != nil {
		n.t.Fatalf("DEL %s: %v: %s", p.id, err, out)
	}
}

func wantAnswer(t *testing.T, from, network, addr, name string) (peer string) {
	t.Helper()
	got, peer, err := nettest.Ask(t, from, network, addr)
	if err != nil || got != name {
		t.Errorf("%s %s answered %q, %v; want %q", network, addr, got, err, name)
	}
	return peer
}

// Pods reach each other, the node and themselves by address, in both families, with their own source address.
func TestPodsReachEachOther(t *testing.T) {
	n := newNode(t, "10.42.3.0/24", "fd42:0:0:3::/64")
	a, b := n.addPod("pod-a", ""), n.addPod("pod-b", "")
	for i, pattern := range []string{"%s:80", "[%s]:80"} {
		nettest.Serve(t, b.netns, "tcp", fmt.Sprintf(pattern, b.addrs[i]), "b")
		for _, from := range []*pod{a, b} {
			if peer := wantAnswer(t, from.netns, "tcp", fmt.Sprintf(pattern, b.addrs[i]), "b"); peer != from.addrs[i] {
				t.Errorf("pod b saw %s, want the source address %s", peer, from.addrs[i])
			}
		}
		wantAnswer(t, "", "tcp", fmt.Sprintf(pattern, b.addrs[i]), "b") // from the node, as probes do
	}
	nettest.Serve(t, "", "tcp", "10.42.3.1:81", "node")
	wantAnswer(t, a.netns, "tcp", "10.42.3.1:81", "node")
	if out, err := n.call("CHECK", "pod-a", a.netns, ""); err != nil {
		t.Errorf("CHECK of an attached pod: %v: %s", err, out)
	}
	for _, sysctl := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if value, _ := os.ReadFile(sysctl); string(value) != "1\n" {
			t.Errorf("%s = %q", sysctl, value)
		}
	}
}

// What a pod sends out of the cluster has the node's address.
func TestMasquerade(t *testing.T) {
	n := newNode(t, "10.42.3.0/24")
	outside := nettest.NewNetns(t, "outside")
	nettest.Connect(t, "", "uplink", "192.0.2.1/24", outside, "eth0", "192.0.2.2/24")
	t.Cleanup(func() {
		if link, err := netlink.LinkByName("uplink"); err == nil {
			netlink.LinkDel(link)
		}
	})
	nettest.Serve(t, outside, "tcp", "192.0.2.2:80", "outside")
	a := n.addPod("pod-a", "")
	if peer := wantAnswer(t, a.netns, "tcp", "192.0.2.2:80", "outside"); peer != "192.0.2.1" {
		t.Errorf("a server outside saw %s, want the node's 192.0.2.1", peer)
	}
	// hostPort from outside keeps the client's address.
	b := n.addPod("pod-b", `,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`)
	nettest.Serve(t, b.netns, "tcp", b.addrs[0]+":80", "b")
	if peer := wantAnswer(t, outside, "tcp", "192.0.2.1:8080", "b"); peer != "192.0.2.2" {
		t.Errorf("the pod saw %s, want the client's 192.0.2.2", peer)
	}
}

func TestHostPorts(t *testing.T) {
	n := newNode(t, "10.42.3.0/24")
	a := n.addPod("pod-a", "")
	b := n.addPod("pod-b", `,"runtimeConfig":{"portMappings":[
		{"hostPort":8080,"containerPort":80,"protocol":"tcp"},
		{"hostPort":8053,"containerPort":53,"protocol":"udp"},
		{"hostPort":8081,"containerPort":80,"protocol":"TCP","hostIP":"127.0.0.1"}]}`)
	nettest.Serve(t, b.netns, "tcp", ":80", "b")
	nettest.Serve(t, b.netns, "udp", ":53", "b")
	wantAnswer(t, "", "tcp", "127.0.0.1:8080", "b")
	wantAnswer(t, "", "tcp", "10.42.3.1:8080", "b")
	wantAnswer(t, "", "udp", "127.0.0.1:8053", "b")
	wantAnswer(t, "", "tcp", "127.0.0.1:8081", "b")
	if peer := wantAnswer(t, a.netns, "tcp", "10.42.3.1:8080", "b"); peer != a.addrs[0] {
		t.Errorf("pod b saw %s, want %s", peer, a.addrs[0])
	}
	wantAnswer(t, b.netns, "tcp", "10.42.3.1:8080", "b") // hairpin: to itself through the node
	if _, _, err := nettest.Ask(t, a.netns, "tcp", "10.42.3.1:8081"); err == nil {
		t.Error("a host port on 127.0.0.1 answers on another address")
	}
	n.delPod(b)
	if _, _, err := nettest.Ask(t, "", "tcp", "127.0.0.1:8080"); err == nil {
		t.Error("host port answers after DEL")
	}
	if saved := save(t, iptables.NAT); strings.Contains(saved, podPortsPrefix) {
		t.Errorf("DEL left a chain:\n%s", saved)
	}
}

func save(t *testing.T, table iptables.Table) string {
	t.Helper()
	saved, err := iptables.New(iptables.IPv4).Save(context.Background(), table)
	if err != nil {
		t.Fatal(err)
	}
	return string(saved)
}

// Addresses survive the server, are given back with DEL, GC and when the pod is gone; none is given twice.
func TestAddressesSurviveTheServer(t *testing.T) {
	n := newNode(t, "10.42.3.0/29") // five addresses for pods
	pods := map[string]*pod{}
	for _, id := range []string{"p1", "p2", "p3", "p4", "p5"} {
		pods[id] = n.addPod(id, "")
	}
	seen := map[string]string{}
	for id, p := range pods {
		if other := seen[p.addrs[0]]; other != "" {
			t.Fatalf("%s and %s both have %s", id, other, p.addrs[0])
		}
		seen[p.addrs[0]] = id
	}
	extra := nettest.NewNetns(t, "extra")
	out, err := n.call("ADD", "extra", extra, "")
	if err == nil || !strings.Contains(out, `"code":11`) {
		t.Errorf("ADD without a free address = %q, %v; want CNI code 11, try again later", out, err)
	}

	nettest.Serve(t, pods["p2"].netns, "tcp", ":80", "p2")
	n.stop()
	wantAnswer(t, pods["p1"].netns, "tcp", pods["p2"].addrs[0]+":80", "p2") // the network outlives the server
	if out, err := n.call("ADD", "extra", extra, ""); err == nil || !strings.Contains(out, `"code":11`) {
		t.Errorf("ADD without a server = %q, %v; want CNI code 11, try again later", out, err)
	}
	nettest.RemoveNetns(pods["p3"].netns) // this pod ended meanwhile
	os.WriteFile(filepath.Join(n.cfg.DataDir, "network", "torn@eth0"), []byte(`{"contai`), 0o600)
	n.start("10.42.3.0/29")
	wantAnswer(t, pods["p1"].netns, "tcp", pods["p2"].addrs[0]+":80", "p2")
	again := n.addPod("p6", "")
	if again.addrs[0] != pods["p3"].addrs[0] {
		t.Errorf("new pod has %s, want that of the pod that is gone, %s", again.addrs[0], pods["p3"].addrs[0])
	}

	n.delPod(pods["p1"])
	n.delPod(pods["p1"]) // again
	if out, err := n.call("DEL", "never-seen", "", ""); err != nil {
		t.Errorf("DEL of an unknown container: %v: %s", err, out)
	}
	if out, err := n.call("GC", "", "", `,"cni.dev/valid-attachments":[{"containerID":"p6","ifname":"eth0"}]`); err != nil {
		t.Errorf("GC: %v: %s", err, out)
	}
	if held := n.net.attachments.all(func(*attachment) bool { return true }); len(held) != 1 || held[0].ContainerID != "p6" {
		t.Errorf("after GC %d attachments are held, want only p6's", len(held))
	}
	if out, err := n.call("CHECK", "p2", pods["p2"].netns, ""); err == nil || !strings.Contains(out, `"code":3`) {
		t.Errorf("CHECK of a removed pod = %q, %v; want CNI code 3", out, err)
	}
}

// After Cleanup the namespace is as before.
func TestCleanupLeavesNothing(t *testing.T) {
	n := newNode(t, "10.42.3.0/24")
	n.addPod("pod-a", `,"runtimeConfig":{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`)
	if _, err := os.Stat(filepath.Join(n.cfg.ConfDir, conflistName)); err != nil {
		t.Fatalf("CNI configuration: %v", err)
	}
	if err := n.net.Cleanup(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []iptables.Table{iptables.NAT, iptables.Filter, iptables.Mangle} {
		if saved := save(t, table); strings.Contains(saved, "SKIFF-") || strings.Contains(saved, "CNI-") {
			t.Errorf("rules are left in %s:\n%s", table, saved)
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Attrs().Name != "lo" && link.Type() != "sit" && link.Type() != "ipip" && link.Type() != "ip6tnl" && link.Type() != "gre" {
			t.Errorf("interface %s (%s) is left", link.Attrs().Name, link.Type())
		}
	}
}

// Rules come back that somebody has flushed, all of them or those of one table, as a firewall's reload does.
func TestRulesComeBack(t *testing.T) {
	n := newNode(t, "10.42.3.0/24")
	for _, flushes := range [][]string{{"-t filter -F"}, {"-t nat -F"}, {"-t nat -F", "-t nat -X", "-t filter -F", "-t filter -X", "-t mangle -F", "-t mangle -X"}} {
		for _, args := range flushes {
			if out, err := exec.Command("iptables", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Fatalf("flush: %v: %s", err, out)
			}
		}
		if err := n.net.rules.restoreIfGone(context.Background()); err != nil {
			t.Fatal(err)
		}
		if saved := save(t, iptables.NAT); !strings.Contains(saved, "-A SKIFF-POSTROUTING -s 10.42.3.0/24 -d 10.42.0.0/16 -j RETURN") {
			t.Errorf("after %q rules did not come back:\n%s", flushes, saved)
		}
		if saved := save(t, iptables.Filter); !strings.Contains(saved, "-j SKIFF-FORWARD") || strings.Count(saved, "-j SKIFF-INPUT") != 1 {
			t.Errorf("after %q rules did not come back:\n%s", flushes, saved)
		}
	}
}

func TestBandwidth(t *testing.T) {
	n := newNode(t, "10.42.3.0/24")
	a := n.addPod("pod-a", `,"runtimeConfig":{"bandwidth":{"ingressRate":8000000,"ingressBurst":800000,"egressRate":16000000,"egressBurst":800000}}`)
	check := func(where, name string, rate uint64) {
		err := nettest.In(t, where, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			qdiscs, err := netlink.QdiscList(link)
			if err != nil {
				return err
			}
			for _, qdisc := range qdiscs {
				if tbf, ok := qdisc.(*netlink.Tbf); ok && tbf.Rate == rate {
					return nil
				}
			}
			return fmt.Errorf("no tbf with rate %d in %v", rate, qdiscs)
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	check("", vethName("pod-a", "eth0"), 1000000)
	check(a.netns, "eth0", 2000000)
}

func TestPluginErrors(t *testing.T) {
	n := newNode(t, "10.42.3.0/24")
	ns := nettest.NewNetns(t, "pod")
	for _, test := range []struct{ command, id, netns, want string }{
		{"ADD", "", ns, `"code":4`},
		{"ADD", "../x", ns, `"code":4`},
		{"ADD", "x", "", `"code":4`},
		{"ADD", "x", "/nowhere", `"code":999`},
		{"FROB", "x", ns, `"code":4`},
	} {
		out, err := n.call(test.command, test.id, test.netns, "")
		if err == nil || !strings.Contains(out, test.want) {
			t.Errorf("%s %q = %q, %v; want an error with %s", test.command, test.id, out, err, test.want)
		}
	}
	if held := n.net.attachments.all(func(*attachment) bool { return true }); len(held) != 0 {
		t.Errorf("failed calls hold %d addresses", len(held))
	}
	if out, err := n.call("VERSION", "", "", ""); err != nil || !strings.Contains(out, `"1.1.0"`) {
		t.Errorf("VERSION = %q, %v", out, err)
	}
	if out, err := n.call("STATUS", "", "", ""); err != nil {
		t.Errorf("STATUS = %q, %v", out, err)
	}
}

// BenchmarkPlugin measures what a pod waits for: ADD, and DEL, each through an execution of the plugin.
func BenchmarkPlugin(b *testing.B) {
	n := newNode(b, "10.42.3.0/24")
	netns := nettest.NewNetns(b, "pod")
	for b.Loop() {
		for _, command := range []string{"ADD", "DEL"} {
			if out, err := n.call(command, "pod", netns, ""); err != nil {
				b.Fatalf("%s: %v: %s", command, err, out)
			}
		}
	}
}
