// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"

	"github.com/skiff-k8s/skiff/testhost"
)

// newCluster starts a server with a node and another node, each with a web server that answers with its pod's name.
func newCluster(t *testing.T, network *testhost.Cluster, serverFlags ...string) *cluster {
	t.Helper()
	c := newServer(t, network, serverFlags...)
	c.beta.run("agent", c.joinFlags()...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/alpha", "node/beta", "--timeout=60s")
	c.kubectl("create", "namespace", "demo")
	for _, name := range []string{"alpha", "beta"} {
		c.webOn(name)
	}
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/on-alpha", "pod/on-beta", "--timeout=90s")
	return c
}

// newServer starts a server, which is a node, beside a machine that may join.
func newServer(t *testing.T, network *testhost.Cluster, flags ...string) *cluster {
	t.Helper()
	c := &cluster{node: newHostOn(t, network, "alpha"), beta: newHostOn(t, network, "beta")}
	c.flags = flags
	c.node.start()
	c.kubectl("wait", "-n", "kube-public", "--for=create", "configmap/cluster-info", "--timeout=60s")
	return c
}

// apiAnswers waits until a server can be asked how to join it.
func (c *cluster) apiAnswers() {
	c.t.Helper()
	c.eventually(time.Minute, "the API answers", func() error {
		_, err := c.try("get", "-n", "kube-public", "configmap", "cluster-info")
		return err
	})
}

// fetch asks for a page from a host, which need not be a node.
func fetch(t *testing.T, h *testhost.Host, url string) (string, error) {
	t.Helper()
	out, err := h.Output(t.Context(), "curl", "-sS", "--max-time", "5", url)
	return strings.TrimSpace(out), err
}

// A LoadBalancer Service gets an address of its own, which one of the nodes announces; when that is lost, the other one does.
func TestLoadBalancerPool(t *testing.T) {
	t.Parallel()
	network := testhost.NewCluster(t, 0)
	c := newCluster(t, network, "--load-balancer-pool=192.168.231.240-192.168.231.241")
	client := network.Add(t, testhost.Options{Name: "client"})
	// Which node an address is hashed to is a matter of names: the first goes to beta, the second to alpha.
	for name, address := range map[string]string{"first": "192.168.231.240", "second": "192.168.231.241"} {
		c.kubectl("expose", "-n", "demo", "pod", "on-alpha", "--name="+name, "--type=LoadBalancer", "--port=80", "--target-port=8080", "--selector=app=web", "--load-balancer-ip="+address)
		c.kubectl("wait", "-n", "demo", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}="+address, "service/"+name, "--timeout=30s")
	}
	c.kubectl("expose", "-n", "demo", "pod", "on-alpha", "--name=third", "--type=LoadBalancer", "--port=80", "--selector=app=web")
	c.eventually(30*time.Second, "who gets no address is told why", func() error {
		out := c.kubectl("get", "events", "-n", "demo", "--field-selector=involvedObject.name=third", "-o", "jsonpath={.items[*].message}")
		if !strings.Contains(out, "no IPv4 address is left") {
			return fmt.Errorf("events: %q", out)
		}
		return nil
	})
	announcedBy := func(address string, by *node) {
		t.Helper()
		c.eventually(2*time.Minute, address+" is announced by "+by.Name(), func() error {
			if _, err := fetch(t, client, "http://"+address+"/"); err != nil {
				return err
			}
			mac := strings.TrimSpace(by.inside("cat", "/sys/class/net/eth0/address"))
			if out, err := client.Output(t.Context(), "ip", "neigh", "show", address); err != nil || !strings.Contains(out, mac) {
				return fmt.Errorf("it is at %q, want %s (%v)", out, mac, err)
			}
			return nil
		})
	}
	announcedBy("192.168.231.240", c.beta)
	announcedBy("192.168.231.241", c.node)

	// Nobody says that it has an address: who has asked for it goes on with the one that it knows, until it is told better.
	c.end(c.beta, syscall.SIGKILL)
	c.kubectl("wait", "--for=condition=Ready=Unknown", "node/beta", "--timeout=90s")
	announcedBy("192.168.231.240", c.node)
	c.beta.run("agent")
	announcedBy("192.168.231.240", c.beta)

	// Cut off from its server, but not from the client, it gives way.
	c.inside("iptables", "-I", "INPUT", "-s", c.beta.IP().String(), "-j", "DROP")
	c.kubectl("wait", "--for=condition=Ready=Unknown", "node/beta", "--timeout=90s")
	announcedBy("192.168.231.240", c.node)
	time.Sleep(5 * time.Second) // long enough for a quarrel to show
	announcedBy("192.168.231.240", c.node)
	c.inside("iptables", "-D", "INPUT", "-s", c.beta.IP().String(), "-j", "DROP")
	announcedBy("192.168.231.240", c.beta)

	c.kubectl("delete", "service", "-n", "demo", "second")
	c.kubectl("wait", "-n", "demo", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}=192.168.231.241", "service/third", "--timeout=30s")
}

// With ranges of both families pods and Services have addresses of both, whatever enforces the rules for Services.
func TestDualStack(t *testing.T) {
	t.Parallel()
	network := testhost.NewCluster(t, 0)
	addresses := func(number int) string { // of the hosts, by the order in which they are added
		h := network.Hosts()[number]
		return "--node-ip=" + h.IP().String() + "," + h.IPv6().String()
	}
	c := &cluster{node: newHostOn(t, network, "alpha"), beta: newHostOn(t, network, "beta")}
	c.flags = []string{"--cluster-cidr=10.42.0.0/16,fd42::/56", "--service-cidr=10.43.0.0/16,fd43::/112", addresses(0)}
	c.node.start()
	c.kubectl("wait", "-n", "kube-public", "--for=create", "configmap/cluster-info", "--timeout=60s")
	c.beta.run("agent", append(c.joinFlags(), addresses(1), "--proxy-mode=nftables")...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/alpha", "node/beta", "--timeout=60s")
	for _, n := range []*node{c.node, c.beta} {
		got := c.kubectl("get", "node", n.Name(), "-o", `jsonpath={.spec.podCIDRs[*]} {.status.addresses[?(@.type=="InternalIP")].address}`)
		if words := strings.Fields(got); len(words) != 4 || !strings.HasPrefix(words[0], "10.42.") || !strings.HasPrefix(words[1], "fd42:") ||
			words[2] != n.IP().String() || words[3] != n.IPv6().String() {
			t.Errorf("node %s has %s", n.Name(), got)
		}
	}
	c.kubectl("create", "namespace", "demo")
	for _, name := range []string{"alpha", "beta"} {
		c.webOn(name)
	}
	manifest := `{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"demo"},"spec":{"type":"NodePort","ipFamilyPolicy":"RequireDualStack","selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}}`
	if out, err := c.pipe(manifest, "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/on-alpha", "pod/on-beta", "--timeout=90s")
	ips := strings.Fields(c.kubectl("get", "service", "-n", "demo", "web", "-o", "jsonpath={.spec.clusterIPs[*]} {.spec.ports[0].nodePort}"))
	if len(ips) != 3 || !strings.HasPrefix(ips[0], "10.43.") || !strings.HasPrefix(ips[1], "fd43:") {
		t.Fatalf("the Service has %q", ips)
	}
	podIPs := func(pod string) []string {
		all := strings.Fields(c.kubectl("get", "pod", "-n", "demo", pod, "-o", "jsonpath={.status.podIPs[*].ip}"))
		if len(all) != 2 || !strings.HasPrefix(all[0], "10.42.") || !strings.HasPrefix(all[1], "fd42:") {
			t.Fatalf("pod %s has %q", pod, all)
		}
		return all
	}
	for _, from := range []string{"on-alpha", "on-beta"} {
		urls := map[string]string{}
		for _, to := range []string{"on-alpha", "on-beta"} {
			for _, ip := range podIPs(to) {
				urls["http://"+net.JoinHostPort(ip, "8080")+"/"] = to
			}
		}
		for _, url := range []string{"http://" + ips[0] + "/", "http://[" + ips[1] + "]/", "http://web.demo/"} {
			urls[url] = "on-" // either of them
		}
		for url, want := range urls {
			c.eventually(60*time.Second, from+" reaches "+url, func() error {
				got, err := c.ask(from, url)
				if err == nil && !strings.HasPrefix(got, want) {
					err = fmt.Errorf("answers %q", got)
				}
				return err
			})
		}
	}
	for _, n := range []*node{c.node, c.beta} {
		for kind, want := range map[uint16]string{dns.TypeA: ips[0], dns.TypeAAAA: ips[1]} {
			if answer := resolve(t, n, "web.demo.svc.cluster.local.", kind); !strings.HasSuffix(answer, "\t"+want) {
				t.Errorf("%s resolves the Service to %q, want %s", n.Name(), answer, want)
			}
		}
	}
	client := network.Add(t, testhost.Options{Name: "client"})
	for _, n := range []*node{c.node, c.beta} {
		for _, ip := range []net.IP{n.IP(), n.IPv6()} {
			url := "http://" + net.JoinHostPort(ip.String(), ips[2]) + "/"
			c.eventually(30*time.Second, "the node port answers at "+url, func() error { _, err := fetch(t, client, url); return err })
		}
	}
	for _, tables := range []string{"nat", "filter"} { // beta has no rules of the other mode
		if out := c.beta.inside("sh", "-c", "iptables-save -t "+tables+"; ip6tables-save -t "+tables); strings.Contains(out, "KUBE-SVC") {
			t.Errorf("iptables on beta:\n%s", out)
		}
	}
}

// resolve asks the cluster's DNS from a node, and returns the only record.
func resolve(t *testing.T, n *node, name string, kind uint16) string {
	t.Helper()
	conn, err := n.Dial(t.Context(), "udp", "10.43.0.10:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := &dns.Client{Timeout: 10 * time.Second}
	answer, _, err := client.ExchangeWithConnContext(t.Context(), new(dns.Msg).SetQuestion(name, kind), &dns.Conn{Conn: conn})
	if err != nil || len(answer.Answer) != 1 {
		t.Fatalf("%s is %v, %v", name, answer, err)
	}
	return answer.Answer[0].String()
}

// Packets between pods of two nodes are lost, while both reach the server: nobody is given up. And rules that somebody
// flushes come back.
func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	c := newCluster(t, testhost.NewCluster(t, 0))
	c.kubectl("expose", "-n", "demo", "pod", "on-alpha", "--name=web", "--port=80", "--target-port=8080", "--selector=app=web")
	c.podsReachEachOther()
	for _, change := range []string{"-I", "-D"} {
		for _, n := range []*node{c.node, c.beta} {
			n.inside("iptables", change, "INPUT", "-p", "udp", "--dport", "8472", "-j", "DROP")
		}
		if change == "-D" {
			break
		}
		if got, err := c.ask("on-alpha", "http://"+c.podIP("on-beta")+":8080/"); err == nil {
			t.Errorf("on-beta answers %q through packets that are dropped", got)
		}
		c.reachesBeta() // by the tunnel
		if out := c.kubectl("get", "nodes", "--no-headers"); strings.Count(out, " Ready ") != 2 {
			t.Errorf("nodes:\n%s", out)
		}
	}
	c.podsReachEachOther()

	for _, table := range []string{"nat", "filter", "mangle"} {
		for _, flag := range []string{"-F", "-X"} {
			c.beta.inside("iptables", "-t", table, flag)
		}
	}
	c.eventually(90*time.Second, "the rules for Services are back", func() error {
		if out := c.beta.inside("iptables-save", "-t", "nat"); !strings.Contains(out, "KUBE-SVC") {
			return errors.New(out)
		}
		return nil
	})
	c.podsReachEachOther()
	if out := c.beta.inside("iptables-save", "-t", "nat"); strings.Count(out, "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES") != 1 {
		t.Errorf("rules are missing or there twice:\n%s", out)
	}
}

// An admission webhook is a pod of an agent's: the server, which is no node, has no other way to it than the tunnel.
func TestWebhookThroughTunnel(t *testing.T) {
	t.Parallel()
	network := testhost.NewCluster(t, 0)
	c := &cluster{node: newHostOn(t, network, "alpha"), beta: newHostOn(t, network, "beta")}
	c.run("server", "--no-node")
	c.eventually(time.Minute, "the API serves", func() error { _, err := c.try("get", "namespaces"); return err })
	c.kubectl("wait", "-n", "kube-public", "--for=create", "configmap/cluster-info", "--timeout=60s")
	c.beta.run("agent", c.joinFlags()...)
	c.kubectl("wait", "--for=create", "node/beta", "--timeout=60s")
	c.kubectl("wait", "--for=condition=Ready", "node/beta", "--timeout=60s")
	c.kubectl("create", "namespace", "demo")
	c.webOn("beta")
	c.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/on-beta", "--timeout=90s")
	c.kubectl("expose", "-n", "demo", "pod", "on-beta", "--name=judge", "--port=443", "--target-port=8443")

	const name = "judge.demo.svc"
	certificate, key, err := cert.GenerateSelfSignedCertKey(name, nil, []string{name})
	if err != nil {
		t.Fatal(err)
	}
	serveWebhook(t, c.beta, certificate, key)
	manifest := fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: judge}
webhooks:
- name: judge.example.org
  clientConfig: {service: {namespace: demo, name: judge, path: /judge}, caBundle: %s}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: demo}}
  failurePolicy: Fail
  sideEffects: None
  admissionReviewVersions: [v1]
`, base64.StdEncoding.EncodeToString(certificate))
	if out, err := c.pipe(manifest, "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	c.eventually(30*time.Second, "the webhook refuses", func() error {
		_, err := c.try("create", "configmap", "-n", "demo", "--dry-run=server", "bad")
		if err == nil || !strings.Contains(err.Error(), `admission webhook "judge.example.org" denied the request: no bad ones`) {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
	c.kubectl("create", "configmap", "-n", "demo", "good")
}

// serveWebhook serves, in the network of the only pod of a node, a webhook that refuses objects named bad.
func serveWebhook(t *testing.T, n *node, certificate, key []byte) {
	t.Helper()
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var review admissionv1.AdmissionReview
			body, err := io.ReadAll(r.Body)
			if err == nil {
				err = json.Unmarshal(body, &review)
			}
			if err != nil || review.Request == nil {
				http.Error(w, "not a review", http.StatusBadRequest)
				return
			}
			review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: review.Request.Name != "bad", Result: &metav1.Status{Message: "no bad ones"}}
			review.Request = nil
			_ = json.NewEncoder(w).Encode(review)
		}),
	}
	l, err := n.ListenBeside("httpd", "tcp", ":8443")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
}
