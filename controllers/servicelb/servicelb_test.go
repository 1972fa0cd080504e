// SPDX-License-Identifier: Apache-2.0

package servicelb

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/network/loadbalancer"
)

func node(name string, change func(*corev1.Node), addresses ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	for _, address := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	if change != nil {
		change(n)
	}
	return n
}

func service(name string, port int32, change func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: port}},
		},
	}
	if change != nil {
		change(svc)
	}
	return svc
}

func notReady(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }

// The addresses are those of the nodes that can be sent traffic, in the Service's families.
func TestAddresses(t *testing.T) {
	excluded := func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" }
	leaving := func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: toBeDeletedTaint}} }
	external := func(n *corev1.Node) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.1"})
	}
	dual := func(svc *corev1.Service) {
		svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	for _, test := range []struct {
		name  string
		svc   func(*corev1.Service)
		nodes []*corev1.Node
		want  string
	}{
		{"all nodes", nil, []*corev1.Node{node("b", nil, "192.0.2.2", "2001:db8::2"), node("a", nil, "192.0.2.1")}, "192.0.2.1 192.0.2.2"},
		{"both families", dual, []*corev1.Node{node("a", nil, "192.0.2.1", "2001:db8::1")}, "192.0.2.1 2001:db8::1"},
		{"not those that are not ready", nil, []*corev1.Node{node("a", notReady, "192.0.2.1"), node("b", nil, "192.0.2.2")}, "192.0.2.2"},
		{"unless none is", nil, []*corev1.Node{node("a", notReady, "192.0.2.1")}, "192.0.2.1"},
		{"not the excluded, not the leaving", nil, []*corev1.Node{node("a", excluded, "192.0.2.1"), node("b", leaving, "192.0.2.2")}, ""},
		{"external ones first", nil, []*corev1.Node{node("a", external, "192.0.2.1"), node("b", nil, "192.0.2.2")}, "203.0.113.1"},
	} {
		var got []string
		for _, in := range addresses(service("web", 80, test.svc), usable(test.nodes)) {
			got = append(got, in.IP)
		}
		if text := strings.Join(got, " "); text != test.want {
			t.Errorf("%s: %q, want %q", test.name, text, test.want)
		}
	}
}

// harness runs the controller and tells the addresses of Services.
func harness(t *testing.T, f func(c *controllertest.Cluster, addresses func(name string) string)) {
	synctest.Test(t, func(t *testing.T) {
		c := controllertest.New(t, node("a", nil, "192.0.2.1"), node("b", nil, "192.0.2.2"))
		start := time.Now()
		reserved := func(port int32) string {
			switch {
			case port == 6443:
				return "the API server"
			case port == 8080 && time.Since(start) < time.Hour:
				return "Ingress"
			}
			return ""
		}
		c.Run(New(Config{Reserved: reserved}, c, c.Factory, c.Events))
		f(c, func(name string) string {
			synctest.Wait()
			time.Sleep(time.Second) // retries
			synctest.Wait()
			svc, err := c.CoreV1().Services("ns").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var ips []string
			for _, in := range svc.Status.LoadBalancer.Ingress {
				ips = append(ips, in.IP)
			}
			return strings.Join(ips, " ")
		})
	})
}

func create(t *testing.T, c *controllertest.Cluster, services ...*corev1.Service) {
	t.Helper()
	for _, svc := range services {
		if _, err := c.CoreV1().Services("ns").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // so that the first one is older
	}
}

// A port of the nodes has one owner; when it goes, the next one gets it. A port that nodes need is nobody's.
func TestPorts(t *testing.T) {
	harness(t, func(c *controllertest.Cluster, addresses func(string) string) {
		create(t, c, service("first", 80, nil), service("second", 80, nil), service("api", 6443, nil),
			service("udp", 80, func(svc *corev1.Service) { svc.Spec.Ports[0].Protocol = corev1.ProtocolUDP }),
			service("other", 80, func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = ptr.To("example.com/lb") }))
		for name, want := range map[string]string{"first": "192.0.2.1 192.0.2.2", "second": "", "api": "", "udp": "192.0.2.1 192.0.2.2", "other": ""} {
			if got := addresses(name); got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
		var said []string
		for len(c.Events.Events) > 0 {
			said = append(said, <-c.Events.Events)
		}
		for _, want := range []string{
			"Warning SyncLoadBalancerFailed TCP port 80 of the nodes belongs to Service ns/first",
			"Warning SyncLoadBalancerFailed port 6443 of the nodes is needed for the API server",
		} {
			if !slices.Contains(said, want) {
				t.Errorf("no event says %q: %q", want, said)
			}
		}
		if err := c.CoreV1().Services("ns").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := addresses("second"); got != "192.0.2.1 192.0.2.2" {
			t.Errorf("after the owner has gone the second has %q", got)
		}
	})
}

// A port that a node gives back goes to the Service that waits for it. It is told once what it waits for.
func TestPortIsGivenBack(t *testing.T) {
	harness(t, func(c *controllertest.Cluster, addresses func(string) string) {
		create(t, c, service("web", 8080, nil))
		if got := addresses("web"); got != "" {
			t.Errorf("it has %q, of a port that is needed", got)
		}
		time.Sleep(time.Hour + lookAgain)
		if got := addresses("web"); got != "192.0.2.1 192.0.2.2" {
			t.Errorf("when the port is free it has %q", got)
		}
		if told := len(c.Events.Events); told != 1 {
			t.Errorf("there are %d events, want one", told)
		}
	})
}

// What was made in the same second as the owner of a port, and comes before it by name, does not take the port away.
func TestPortIsKept(t *testing.T) {
	owner := service("web", 80, func(svc *corev1.Service) {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	})
	c := &controller{}
	denied, _ := c.distribute([]*corev1.Service{service("second", 80, nil), owner})
	if got := slices.Collect(maps.Keys(denied)); len(got) != 1 || got[0].Name != "second" {
		t.Errorf("%v get nothing, want only the second", got)
	}
}

// With policy Local only nodes with endpoints count, as they are now.
func TestPolicyLocal(t *testing.T) {
	harness(t, func(c *controllertest.Cluster, addresses func(string) string) {
		create(t, c, service("web", 80, func(svc *corev1.Service) {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}))
		if got := addresses("web"); got != "" {
			t.Errorf("without endpoints it has %q", got)
		}
		slices := c.DiscoveryV1().EndpointSlices("ns")
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.42.1.1"}, NodeName: ptr.To("b")}},
		}
		if _, err := slices.Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := addresses("web"); got != "192.0.2.2" {
			t.Errorf("with an endpoint on b it has %q", got)
		}
		slice = slice.DeepCopy()
		slice.Endpoints[0].NodeName = ptr.To("a")
		if _, err := slices.Update(t.Context(), slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := addresses("web"); got != "192.0.2.1" {
			t.Errorf("with an endpoint on a it has %q", got)
		}
	})
}

// A heartbeat of a node is no reason to do anything; a node that is lost is.
func TestNodes(t *testing.T) {
	harness(t, func(c *controllertest.Cluster, addresses func(string) string) {
		create(t, c, service("web", 80, nil))
		before := fmt.Sprint(addresses("web"))
		c.ClearActions()
		lost := node("b", notReady, "192.0.2.2")
		if _, err := c.CoreV1().Nodes().Update(t.Context(), lost, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := addresses("web"); before != "192.0.2.1 192.0.2.2" || got != "192.0.2.1" {
			t.Errorf("before b was lost: %q, after: %q", before, got)
		}
	})
}

// A Service that has addresses is kept until they are taken back: when it is deleted, and when it wants none any more.
func TestFinalizer(t *testing.T) {
	for name, leave := range map[string]func(*corev1.Service){
		"deleted":         func(svc *corev1.Service) { svc.DeletionTimestamp = ptr.To(metav1.Now()) },
		"of another type": func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP },
	} {
		t.Run(name, func(t *testing.T) {
			harness(t, func(c *controllertest.Cluster, addresses func(string) string) {
				create(t, c, service("web", 80, func(svc *corev1.Service) { svc.Finalizers = []string{"example.com/own"} }))
				get := func() *corev1.Service {
					svc, err := c.CoreV1().Services("ns").Get(t.Context(), "web", metav1.GetOptions{})
					if err != nil {
						t.Fatal(err)
					}
					return svc.DeepCopy()
				}
				before := addresses("web")
				svc := get()
				if !slices.Equal(svc.Finalizers, []string{"example.com/own", loadbalancer.Finalizer}) || before != "192.0.2.1 192.0.2.2" {
					t.Fatalf("it has addresses %q and finalizers %q", before, svc.Finalizers)
				}
				leave(svc)
				if _, err := c.CoreV1().Services("ns").Update(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
				after := addresses("web")
				if svc = get(); !slices.Equal(svc.Finalizers, []string{"example.com/own"}) || after != "" {
					t.Errorf("then it has addresses %q and finalizers %q", after, svc.Finalizers)
				}
				c.ClearActions()
				addresses("web")
				for _, a := range c.Actions() {
					if a.GetVerb() == "update" {
						t.Errorf("and is written again")
					}
				}
			})
		})
	}
}
