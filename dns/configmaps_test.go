// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// adaptText adapts a Corefile with these files beside it, for a node that listens on 10.42.0.1 and asks 192.0.2.53.
func adaptText(t *testing.T, text string, beside files) (adapted, string, error) {
	t.Helper()
	f := files{mainFile: text}
	for name, content := range beside {
		f[name] = content
	}
	p := place{
		dir: t.TempDir(), upstreams: []string{"192.0.2.53"}, resolv: "/run/resolv.conf", listen: []netip.AddrPort{netip.MustParseAddrPort("10.42.0.1:1053")},
		isSelf: func(a netip.Addr) bool { return a == netip.MustParseAddr("10.43.0.10") },
	}
	if err := f.write(p.dir); err != nil {
		return adapted{}, "", err
	}
	local, err := localImports(mainFile, text, p.dir)
	if err != nil {
		return adapted{}, "", err
	}
	a, err := adapt(local, p)
	return a, strings.ReplaceAll(a.text, p.dir, "DIR"), err
}

// What people bring from CoreDNS's pods is taken for what it meant there.
func TestAdapt(t *testing.T) {
	for _, c := range []struct {
		about, corefile string
		beside          files
		want            []string // lines
		not             string   // no line has it
	}{
		{about: "kubeadm's", corefile: `.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}`, want: []string{".:1053 {", "bind 10.42.0.1", "kubernetes cluster.local in-addr.arpa ip6.arpa {", "forward . 192.0.2.53 {", "max_concurrent 1000", "cache 30"}, not: "9153"},
		{about: "stub domains", corefile: ". {\n forward example.org 10.0.0.1 10.0.0.2:5353\n forward . /etc/resolv.conf\n}\ncorp.example:53 {\n forward . 10.0.0.3\n}",
			want: []string{".:1053 {", "forward example.org 10.0.0.1 10.0.0.2:5353", "forward . 192.0.2.53", "corp.example:1053 {", "forward . 10.0.0.3"}},
		{about: "hosts of one's own", corefile: ". {\n hosts {\n 10.0.0.9 db.example\n fallthrough\n }\n}", want: []string{"hosts /dev/null {", "10.0.0.9 db.example", "fallthrough"}},
		{about: "the machine's hosts", corefile: ". {\n hosts /etc/hosts example\n}", want: []string{"hosts /dev/null example"}},
		{about: "files of the ConfigMap", corefile: ". {\n hosts /etc/coredns/NodeHosts\n file /etc/coredns/db.example example\n}",
			want: []string{"hosts DIR/NodeHosts", "file DIR/db.example example"}},
		{about: "imports", corefile: ".:53 {\n import /etc/coredns/custom/*.override\n}\nimport /etc/coredns/custom/*.server",
			beside: files{"custom/a.override": "log", "custom/b.server": "b.example:53 {\n whoami\n}"}, want: []string{"log", "b.example:1053 {", "whoami"}},
		{about: "search paths", corefile: ". {\n autopath @kubernetes\n}\nexample.org {\n autopath example.org /etc/resolv.conf\n}\nexample.com {\n autopath /etc/coredns/resolv.conf\n}",
			want: []string{"autopath @kubernetes", "autopath example.org /run/resolv.conf", "autopath DIR/resolv.conf"}},
		{about: "snippets", corefile: "(common) {\n errors\n cache 5\n}\n. {\n import common\n}", want: []string{"errors", "cache 5"}},
		{about: "reverse zones and several names", corefile: "10.0.0.0/24 example.org:53 {\n whoami\n}", want: []string{"10.0.0.0/24:1053 example.org:1053 {"}},
		{about: "words with blanks", corefile: ". {\n log . \"{remote} said \\\"{name}\\\"\"\n}", want: []string{`log . "{remote} said \"{name}\""`}},
	} {
		t.Run(c.about, func(t *testing.T) {
			_, text, err := adaptText(t, c.corefile, c.beside)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(text, "\n")
			for _, want := range c.want {
				if !slices.Contains(lines, want) {
					t.Errorf("no line %q in\n%s", want, text)
				}
			}
			if c.not != "" && strings.Contains(text, c.not) {
				t.Errorf("%q is in\n%s", c.not, text)
			}
		})
	}
}

// What cannot be is refused with one line that says where.
func TestAdaptRefuses(t *testing.T) {
	for _, c := range []struct{ corefile, want string }{
		{". {\n\n k8s_external example.org\n}", "Corefile:3 - k8s_external: this plugin of CoreDNS is not part of Skiff"},
		{". {\n\n mistyped\n}", "Corefile:3 - Error during parsing: Unknown directive 'mistyped'"},
		{". {\n autopath /var/lib/secret\n}", "Corefile:2 - autopath: /var/lib/secret is not below /etc/coredns/"},
		{". {\n bind 127.0.0.1\n}", "Corefile:2 - bind: DNS listens where the pods of the node reach it"},
		{"tls://. {\n whoami\n}", "over UDP and TCP only"},
		{".:5353 {\n whoami\n}", "server block .:5353: DNS is served at port 53 only"},
		{". {\n forward . 10.43.0.10\n}", "Corefile:2 - forward: 10.43.0.10 is this DNS itself"},
		{". {\n forward . dns://10.43.0.10:53\n}", "is this DNS itself"},
		{". {\n forward . /var/lib/secret\n}", "neither a server nor /etc/resolv.conf"},
		{". {\n file /var/lib/secret example\n}", "Corefile:2 - file: /var/lib/secret is not below /etc/coredns/"},
		{". {\n hosts ../secret\n}", "../secret is not below /etc/coredns/"},
		{". {\n hosts /etc/coredns/../shadow\n}", "is not below /etc/coredns/"},
		{". {\n import /etc/shadow\n}", "Corefile:2 - import: /etc/shadow is not below /etc/coredns/"},
		{". {\n import /etc/coredns/none\n}", "File to import not found"},
		{". {\n whoami\n", "Corefile:2 - Syntax error"},
		{"# nothing", "no server block"},
	} {
		_, _, err := adaptText(t, c.corefile, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want one line with %q", c.corefile, err, c.want)
		}
	}
}

// Without ConfigMaps, and with one that adds, the Corefile is the default one.
func TestDefaultCorefile(t *testing.T) {
	custom := &corev1.ConfigMap{Data: map[string]string{"a.override": "log", "b.server": "b.example {\n whoami\n}"}}
	f := filesOf(nil, custom, "example.local")
	_, text, err := adaptText(t, f[mainFile], f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kubernetes example.local in-addr.arpa ip6.arpa {", "forward . 192.0.2.53 {", "log", "b.example:1053 {"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// The ConfigMap decides, as soon as it changes; one that is wrong changes nothing, and an event says what is wrong.
func TestFollowConfigMap(t *testing.T) {
	upstream := upstreamServer(t)
	s := serve(t, "", cluster()...)
	maps := s.client.CoreV1().ConfigMaps("kube-system")
	const cluster, stub = "web.default.svc.cluster.local.", "host.stub.example."
	if got := summary(s.ask(t, stub, "A")); got != "SERVFAIL" {
		t.Fatalf("without a stub domain: %s", got)
	}

	custom := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "coredns-custom"}, Data: map[string]string{
		"stub.server":    fmt.Sprintf("stub.example:53 {\n forward . %s\n}", upstream),
		"hosts.override": "hosts {\n 10.0.0.9 db.example\n fallthrough\n}",
	}}
	if _, err := maps.Create(t.Context(), custom, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, stub, "A 192.0.2.1")
	s.await(t, "db.example.", "A 10.0.0.9")
	s.await(t, cluster, "A 10.43.1.1")

	own := corefile(".:53 {\n kubernetes cluster.local\n hosts /etc/coredns/NodeHosts {\n  fallthrough\n }\n}")
	own.Data["NodeHosts"] = "10.0.0.7 node.example\n"
	if _, err := maps.Create(t.Context(), own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "node.example.", "A 10.0.0.7")
	s.await(t, cluster, "A 10.43.1.1")

	own.Data["NodeHosts"] = "10.0.0.8 node.example\n"
	if _, err := maps.Update(t.Context(), own, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.await(t, "node.example.", "A 10.0.0.8")

	wrong := own.DeepCopy()
	wrong.Data["Corefile"] = ".:53 {\n kubernetes cluster.local {\n  colour red\n }\n}"
	if _, err := maps.Update(t.Context(), wrong, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.awaitEvent(t, "Corefile:3 - Error during parsing: unknown property 'colour'")
	s.await(t, "node.example.", "A 10.0.0.8")

	for _, name := range []string{"coredns", "coredns-custom"} {
		if err := maps.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	s.await(t, "node.example.", "SERVFAIL")
	s.await(t, cluster, "A 10.43.1.1")
}

// A Corefile that is wrong from the start leaves the cluster its names.
func TestWrongFromTheStart(t *testing.T) {
	s := serve(t, "forward . 10.43.0.10", cluster()...)
	s.awaitEvent(t, "Corefile:2 - forward: 10.43.0.10 is this DNS itself")
	s.await(t, "web.default.svc.cluster.local.", "A 10.43.1.1")
}

// The options of CoreDNS's kubernetes plugin.
func TestOptions(t *testing.T) {
	pod := endpoint("10.42.0.60", "", true)
	pod.TargetRef = &corev1.ObjectReference{Kind: "Pod", Name: "p-0"}
	objects := append(cluster(),
		service("default", "named", corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 1}}}),
		slice("default", "named", "named-1", nil, pod))
	for _, c := range []struct{ option, name, typ, with, without string }{
		{"endpoint_pod_names", "p-0.named.default.svc.cluster.local.", "A", "A 10.42.0.60", "NXDOMAIN"},
		{"endpoint_pod_names", "60.0.42.10.in-addr.arpa.", "PTR", "PTR p-0.named.default.svc.cluster.local.", "PTR 10-42-0-60.named.default.svc.cluster.local."},
		{"noendpoints", "db.default.svc.cluster.local.", "A", "NXDOMAIN", "A 10.42.0.5; A 10.42.0.6; A 10.42.0.7"},
		{"ignore empty_service", "unnamed.default.svc.cluster.local.", "A", "NXDOMAIN", "A 10.43.1.2"},
		{"namespaces kube-system", "web.default.svc.cluster.local.", "A", "NXDOMAIN", "A 10.43.1.1"},
	} {
		for option, want := range map[string]string{c.option: c.with, "": c.without} {
			s := serve(t, "kubernetes cluster.local in-addr.arpa {\n"+option+"\n}", objects...)
			if got := summary(s.ask(t, c.name, c.typ)); got != want {
				t.Errorf("%q: %s %s = %s, want %s", option, c.typ, c.name, got, want)
			}
		}
	}
}

// await asks until the answer is want.
func (s *testServer) await(t *testing.T, name, want string) {
	t.Helper()
	got := ""
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(5 * time.Millisecond) {
		if got = summary(s.ask(t, name, "A")); got == want {
			return
		}
	}
	t.Fatalf("%s = %s, want %s", name, got, want)
}

// awaitEvent waits for an event about the Corefile.
func (s *testServer) awaitEvent(t *testing.T, want string) {
	t.Helper()
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(5 * time.Millisecond) {
		events, err := s.client.CoreV1().Events("kube-system").List(t.Context(), metav1.ListOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.Reason == "CorefileRefused" && e.InvolvedObject.Name == "coredns" && strings.Contains(e.Message, want) && !strings.Contains(e.Message, "\n") {
				return
			}
		}
	}
	t.Fatalf("no event with %q", want)
}
