// SPDX-License-Identifier: Apache-2.0

package allocation_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/registry/core/allocation"
	"github.com/skiff-k8s/skiff/testenv"
)

func service(name string, change ...func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, c := range change {
		c(&s.Spec)
	}
	return s
}

func ofType(t corev1.ServiceType) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) { s.Type = t }
}

type cluster struct {
	*testing.T
	env *testenv.Env
	ctx context.Context
	api kubernetes.Interface
}

func start(t *testing.T, options ...testenv.Option) cluster {
	t.Helper()
	env := testenv.Start(t, options...)
	return cluster{t, env, t.Context(), env.Client}
}

func (c cluster) create(s *corev1.Service) *corev1.Service {
	c.Helper()
	out, err := c.api.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{})
	if err != nil {
		c.Fatalf("create Service %s: %v", s.Name, err)
	}
	return out
}

// refused creates s and wants an error that says text.
func (c cluster) refused(s *corev1.Service, text string) {
	c.Helper()
	_, err := c.api.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), text) {
		c.Errorf("create Service %s = %v, want an error with %q", s.Name, err, text)
	}
}

func (c cluster) patch(name, patch string) *corev1.Service {
	c.Helper()
	out, err := c.api.CoreV1().Services("default").Patch(c.ctx, name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		c.Fatalf("patch Service %s: %v", name, err)
	}
	return out
}

// addresses are the IPAddress objects by name.
func (c cluster) addresses() map[string]networkingv1.IPAddress {
	c.Helper()
	list, err := c.api.NetworkingV1().IPAddresses().List(c.ctx, metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	out := map[string]networkingv1.IPAddress{}
	for _, ip := range list.Items {
		out[ip.Name] = ip
	}
	return out
}

func TestClusterIPLivesAsLongAsItsService(t *testing.T) {
	c := start(t)
	s := c.create(service("a"))
	ip, err := netip.ParseAddr(s.Spec.ClusterIP)
	if err != nil || !netip.MustParsePrefix("10.43.0.0/16").Contains(ip) || ip.Less(netip.MustParseAddr("10.43.1.1")) {
		t.Fatalf("clusterIP = %q, want one of 10.43.0.0/16 above the static band", s.Spec.ClusterIP)
	}
	if len(s.Spec.ClusterIPs) != 1 || s.Spec.ClusterIPs[0] != s.Spec.ClusterIP || s.Spec.IPFamilies[0] != corev1.IPv4Protocol || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("spec = %+v, want clusterIPs, ipFamilies and ipFamilyPolicy filled in", s.Spec)
	}
	object, ok := c.addresses()[s.Spec.ClusterIP]
	if !ok {
		t.Fatalf("no IPAddress %s", s.Spec.ClusterIP)
	}
	want := networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "a"}
	if *object.Spec.ParentRef != want || object.Labels[networkingv1.LabelManagedBy] != "ipallocator.k8s.io" || object.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" {
		t.Errorf("IPAddress = %+v %v, want it to say whose it is", object.Spec.ParentRef, object.Labels)
	}
	if err := c.api.CoreV1().Services("default").Delete(c.ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if left := c.addresses(); len(left) != 0 {
		t.Errorf("addresses after delete = %v, want none", left)
	}
}

func TestExplicitClusterIP(t *testing.T) {
	c := start(t)
	asks := func(ip string) func(*corev1.ServiceSpec) { return func(s *corev1.ServiceSpec) { s.ClusterIP = ip } }
	if s := c.create(service("dns", asks("10.43.0.10"))); s.Spec.ClusterIP != "10.43.0.10" {
		t.Errorf("clusterIP = %s, want the one asked for", s.Spec.ClusterIP)
	}
	c.refused(service("b", asks("10.43.0.10")), `spec.clusterIPs: Invalid value: ["10.43.0.10"]: failed to allocate IP 10.43.0.10: provided IP is already allocated`)
	c.refused(service("b", asks("10.44.0.10")), "failed to allocate IP 10.44.0.10: the provided network does not match the current range")
	c.refused(service("b", asks("fd00::1")), "IPv6 is not configured on this cluster")
	if s := c.create(service("headless", asks("None"))); s.Spec.ClusterIPs[0] != "None" || s.Spec.IPFamilies[0] != corev1.IPv4Protocol {
		t.Errorf("headless = %+v", s.Spec)
	}
	if n := len(c.addresses()); n != 1 {
		t.Errorf("%d addresses are taken, want 1", n)
	}
}

func TestWhatDoesNotHappenTakesNothing(t *testing.T) {
	c := start(t)
	if _, err := c.api.CoreV1().Services("default").Create(c.ctx, service("dry", ofType(corev1.ServiceTypeNodePort)), metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		t.Fatal(err)
	}
	c.refused(service("invalid", func(s *corev1.ServiceSpec) { s.Type = "NodePort"; s.Ports[0].Port = 70000 }), "must be between 1 and 65535")
	c.create(service("a", func(s *corev1.ServiceSpec) { s.Type = "NodePort"; s.Ports[0].NodePort = 30080 }))
	c.refused(service("b", func(s *corev1.ServiceSpec) { s.Type = "NodePort"; s.Ports[0].NodePort = 30080 }), "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated")
	c.refused(service("a"), "already exists")
	if n := len(c.addresses()); n != 1 {
		t.Errorf("%d addresses are taken, want 1", n)
	}
}

func TestNodePorts(t *testing.T) {
	c := start(t, testenv.NodePorts(30000, 30002))
	c.refused(service("x", func(s *corev1.ServiceSpec) { s.Type = "NodePort"; s.Ports[0].NodePort = 29999 }), "provided port is not in the valid range. The range of valid ports is 30000-30002")
	dns := c.create(service("dns", ofType("NodePort"), func(s *corev1.ServiceSpec) {
		s.Ports = []corev1.ServicePort{{Name: "tcp", Port: 53, Protocol: "TCP"}, {Name: "udp", Port: 53, Protocol: "UDP"}}
	}))
	if a, b := dns.Spec.Ports[0].NodePort, dns.Spec.Ports[1].NodePort; a == 0 || a != b {
		t.Errorf("node ports = %d, %d; want one for both protocols", a, b)
	}
	lb := c.create(service("lb", ofType("LoadBalancer"), func(s *corev1.ServiceSpec) { s.ExternalTrafficPolicy = "Local" }))
	if lb.Spec.HealthCheckNodePort == 0 || lb.Spec.HealthCheckNodePort == lb.Spec.Ports[0].NodePort {
		t.Errorf("health check port = %d, node port %d", lb.Spec.HealthCheckNodePort, lb.Spec.Ports[0].NodePort)
	}
	c.refused(service("full", ofType("NodePort")), "failed to allocate a nodePort: range is full")
	// What a change of type gives back is there for others, and an update does not lose what it does not name.
	if s := c.patch("lb", `{"spec":{"type":"ClusterIP"}}`); s.Spec.Ports[0].NodePort != 0 || s.Spec.HealthCheckNodePort != 0 {
		t.Errorf("as ClusterIP: ports %+v, health check %d; want none", s.Spec.Ports, s.Spec.HealthCheckNodePort)
	}
	now := c.create(service("now", ofType("NodePort")))
	replaced, err := c.api.CoreV1().Services("default").Update(c.ctx, service("now", ofType("NodePort")), metav1.UpdateOptions{})
	if err != nil || replaced.Spec.Ports[0].NodePort != now.Spec.Ports[0].NodePort || replaced.Spec.ClusterIP != now.Spec.ClusterIP {
		t.Errorf("replaced = %+v, %v; want the ports and address of before", replaced, err)
	}
}

func TestExternalNameHasNoAddress(t *testing.T) {
	c := start(t)
	c.create(service("a"))
	if s := c.patch("a", `{"spec":{"type":"ExternalName","externalName":"example.com"}}`); s.Spec.ClusterIP != "" || s.Spec.IPFamilies != nil {
		t.Errorf("as ExternalName: %+v", s.Spec)
	}
	if left := c.addresses(); len(left) != 0 {
		t.Errorf("addresses = %v, want none", left)
	}
	if s := c.patch("a", `{"spec":{"type":"ClusterIP","externalName":null}}`); s.Spec.ClusterIP == "" || len(c.addresses()) != 1 {
		t.Errorf("as ClusterIP again: %+v", s.Spec)
	}
}

func TestDualStack(t *testing.T) {
	c := start(t, testenv.ServiceCIDRs("10.43.0.0/24", "fd00:43::/112"))
	s := c.create(service("a", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack) }))
	if len(s.Spec.ClusterIPs) != 2 || !strings.HasPrefix(s.Spec.ClusterIPs[1], "fd00:43::") || len(c.addresses()) != 2 {
		t.Fatalf("clusterIPs = %v, want two", s.Spec.ClusterIPs)
	}
	s = c.patch("a", `{"spec":{"ipFamilyPolicy":"SingleStack"}}`)
	if len(s.Spec.ClusterIPs) != 1 || len(s.Spec.IPFamilies) != 1 || len(c.addresses()) != 1 {
		t.Errorf("as SingleStack: %v %v, %d addresses", s.Spec.ClusterIPs, s.Spec.IPFamilies, len(c.addresses()))
	}
	s = c.patch("a", `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	if len(s.Spec.ClusterIPs) != 2 || len(c.addresses()) != 2 {
		t.Errorf("as RequireDualStack: %v", s.Spec.ClusterIPs)
	}
}

func TestRequireDualStackNeedsTwoFamilies(t *testing.T) {
	c := start(t)
	c.refused(service("a", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack) }),
		`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`)
}

// Every address of a small range is handed out once, and another ServiceCIDR makes room for more.
func TestRangeIsUsedUp(t *testing.T) {
	c := start(t, testenv.ServiceCIDRs("10.43.0.0/29"))
	for i := range 6 {
		c.create(service(string(rune('a' + i))))
	}
	c.refused(service("full"), `failed to allocate a serviceIP for Service "full": range is full`)
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.44.0.0/24"}}}
	if _, err := c.api.NetworkingV1().ServiceCIDRs().Create(c.ctx, more, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := service("more")
	for { // the new range is known once the cache has seen it
		out, err := c.api.CoreV1().Services("default").Create(c.ctx, s, metav1.CreateOptions{})
		if apierrors.IsInternalError(err) {
			continue
		}
		if err != nil || !strings.HasPrefix(out.Spec.ClusterIP, "10.44.0.") {
			t.Errorf("with a second range: %v, %v", out.Spec.ClusterIPs, err)
		}
		return
	}
}

// A crash can leave an address without Service, a port without Service, and nothing else.
func TestRepair(t *testing.T) {
	dir := t.TempDir()
	c := start(t, testenv.Dir(dir), testenv.NodePorts(30000, 30000))
	kept := c.create(service("kept"))
	c.create(service("crashed", ofType("NodePort")))
	// Deleting below the allocator is what a crash between two writes looks like.
	if _, err := c.env.Store.Client().Delete(c.ctx, "/registry/services/specs/default/crashed"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.env.Store.Client().Delete(c.ctx, "/registry/ipaddresses/"+kept.Spec.ClusterIP); err != nil {
		t.Fatal(err)
	}
	c.env.Stop()

	c = start(t, testenv.Dir(dir), testenv.NodePorts(30000, 30000))
	left := c.addresses()
	if _, ok := left[kept.Spec.ClusterIP]; !ok || len(left) != 1 {
		t.Errorf("addresses = %v, want that of the Service that there is", left)
	}
	if s := c.create(service("next", ofType("NodePort"))); s.Spec.Ports[0].NodePort != 30000 {
		t.Errorf("node port = %d, want the one that was freed", s.Spec.Ports[0].NodePort)
	}
}

// The same while others write: what is left over goes, what is being used stays.
func TestRepairBesideOthers(t *testing.T) {
	var services *allocation.Allocator
	c := start(t, testenv.NodePorts(30000, 30002), testenv.Configure(func(cfg *apiserver.Config) { services = cfg.Services }))
	kept := c.create(service("kept"))
	c.create(service("crashed", ofType("NodePort")))
	for _, key := range []string{"/registry/services/specs/default/crashed", "/registry/ipaddresses/" + kept.Spec.ClusterIP} {
		if _, err := c.env.Store.Client().Delete(c.ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan error, 1)
	go func() { done <- services.RepairBesideOthers(ctx, 200*time.Millisecond) }()
	var written []*corev1.Service
	for i := 0; ; i++ { // as quickly as it goes
		s := c.create(service(fmt.Sprintf("s%d", i), ofType("NodePort")))
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			done = nil
		default:
		}
		if done == nil {
			written = append(written, s)
			break
		}
		if err := c.api.CoreV1().Services("default").Delete(c.ctx, s.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	want := map[string]bool{kept.Spec.ClusterIP: true}
	for _, s := range written {
		want[s.Spec.ClusterIP] = true
	}
	if left := c.addresses(); len(left) != len(want) {
		t.Errorf("addresses = %v, want %v", left, want)
	}
	// Of three ports one is in use: there are two more, and no third one.
	c.create(service("second", ofType("NodePort")))
	c.create(service("third", ofType("NodePort")))
	c.refused(service("full", ofType("NodePort")), "failed to allocate a nodePort: range is full")
}

// An upstream API server finds the ports where it looks for them.
func TestNodePortsLieWhereUpstreamKeepsThem(t *testing.T) {
	c := start(t)
	c.create(service("a", ofType("NodePort")))
	got, err := c.env.Store.Client().Get(c.ctx, "/registry/ranges/servicenodeports")
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("get = %v, %v; want the object", got, err)
	}
	value := got.Kvs[0].Value
	if !strings.HasPrefix(string(value), "k8s\x00") || !strings.Contains(string(value), "RangeAllocation") || !strings.Contains(string(value), "30000-32767") {
		t.Errorf("stored = %q, want a RangeAllocation in protobuf", value)
	}
}

func BenchmarkCreateService(b *testing.B) {
	env := testenv.Start(b)
	for b.Loop() {
		s := service("")
		s.GenerateName = "s-"
		if _, err := env.Client.CoreV1().Services("default").Create(b.Context(), s, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
