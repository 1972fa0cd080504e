// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/proxy/metrics"
)

// What the proxy does shows under kube-proxy's names: changes that wait, syncs of all and of what changed, failures, and how long
// ago what was written has happened.
func TestMetrics(t *testing.T) {
	svc := webService(nil)
	key := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	p, err := New(Config{NodeName: "here"}, fake.NewClientset(), factory)
	if err != nil {
		t.Fatal(err)
	}
	if err := factory.Core().V1().Services().Informer().GetStore().Add(svc); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	p.families[corev1.IPv4Protocol].backend, p.families[corev1.IPv6Protocol].backend = r, &recorder{}
	metric := func(line string) bool {
		t.Helper()
		w := httptest.NewRecorder()
		p.metricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Contains("\n"+w.Body.String(), "\n"+line+"\n")
	}
	want := func(when string, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if !metric(line) {
				t.Errorf("%s: no metric says %s", when, line)
			}
		}
	}
	slice := func(at time.Time) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name + "-1",
			Labels:      map[string]string{discoveryv1.LabelServiceName: svc.Name},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: at.Format(time.RFC3339Nano)},
		}}
	}

	p.mark(key, change{service: true})
	p.mark(key, change{service: true})
	p.noteSlice(slice(p.began.Add(-time.Hour)), true) // before this process
	p.noteSlice(slice(time.Now()), true)
	want("before a sync", "kubeproxy_sync_proxy_rules_service_changes_total 2", "kubeproxy_sync_proxy_rules_service_changes_pending 1",
		"kubeproxy_sync_proxy_rules_endpoint_changes_total 2", "kubeproxy_sync_proxy_rules_endpoint_changes_pending 1")
	if err := p.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	want("after a sync", "kubeproxy_sync_proxy_rules_service_changes_pending 0", "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0`,
		`kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"} 0`)

	p.mark(key, change{service: true})
	r.fail = errors.New("no")
	if err := p.sync(t.Context()); err == nil {
		t.Fatal("a failure of the back end was not told")
	}
	want("after a failure", `kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv4"} 1`,
		`kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1`,
		`kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"} 2`)

	w := httptest.NewRecorder()
	p.metricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/proxyMode", nil))
	if got := w.Body.String(); got != "iptables" {
		t.Errorf("/proxyMode says %q", got)
	}
}

// A slice that is marked as headless is as good as deleted; one that always was changes nothing.
func TestHeadlessSlices(t *testing.T) {
	client := fake.NewClientset()
	p, err := New(Config{NodeName: "here"}, client, informers.NewSharedInformerFactory(client, 0))
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{discoveryv1.LabelServiceName: "web"}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: labels}}
	web := types.NamespacedName{Namespace: "ns", Name: "web"}
	p.noteSlice(slice, true)
	labels[corev1.IsHeadlessService] = ""
	p.dirty = map[types.NamespacedName]change{}
	p.noteSlice(slice, true)
	if p.sliceKeys[web] != nil || !p.dirty[web].endpoints {
		t.Errorf("known are %v, dirty is %v; want none, and the Service", p.sliceKeys, p.dirty)
	}
	p.dirty = map[types.NamespacedName]change{}
	if p.noteSlice(slice, true); len(p.dirty) != 0 {
		t.Errorf("when it comes again, dirty is %v, want nothing", p.dirty)
	}
}

// /healthz has each family: one that is late makes the proxy unhealthy, and says so.
func TestHealthOfFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(Config{}, nil, func() *corev1.Node { return &corev1.Node{} }, metrics.New())
		made := time.Now()
		h.queued()
		time.Sleep(10 * time.Second)
		h.updated(corev1.IPv4Protocol)
		updated := time.Now()
		check := func(healthy bool, want map[corev1.IPFamily]familyStatus) {
			t.Helper()
			if s := h.status(); s.Healthy != healthy || !s.LastUpdated.Equal(updated) || !maps.Equal(s.Families, want) {
				t.Errorf("after %v: %+v; want healthy %t, %+v", time.Since(made), s, healthy, want)
			}
		}
		check(true, map[corev1.IPFamily]familyStatus{corev1.IPv4Protocol: {updated, true}, corev1.IPv6Protocol: {made, true}})
		time.Sleep(lateAfter)
		check(false, map[corev1.IPFamily]familyStatus{corev1.IPv4Protocol: {updated, true}, corev1.IPv6Protocol: {made, false}})
	})
}

// A health check port is open at the addresses for node ports. A pod behind two ports counts once, two behind one each count both.
func TestHealthChecks(t *testing.T) {
	p := &Proxy{families: map[corev1.IPFamily]*family{
		corev1.IPv4Protocol: {active: true, ports: map[types.NamespacedName][]servicePort{
			{Name: "same"}:  {check(30001, "10.42.1.1"), check(30001, "10.42.1.1")},
			{Name: "other"}: {check(30002, "10.42.1.1"), check(30002, "10.42.1.2")},
			{Name: "none"}:  {check(0, "10.42.1.1")},
		}},
		corev1.IPv6Protocol: {active: true, ports: map[types.NamespacedName][]servicePort{{Name: "same"}: {check(30001)}}},
	}}
	want := map[types.NamespacedName]healthCheck{{Name: "same"}: {30001, 1}, {Name: "other"}: {30002, 2}}
	if got := p.healthChecks(); !maps.Equal(got, want) {
		t.Errorf("checks %v, want %v", got, want)
	}
	for _, c := range []struct {
		ranges, here, node, want string
		active6                  bool
	}{
		{"", "", "192.0.2.1", "0.0.0.0 ::", true},
		{"", "", "192.0.2.1", "0.0.0.0", false},
		{"", "", "192.0.2.1 2001:db8::1", "0.0.0.0 ::", false},
		{"192.0.2.0/24", "192.0.2.1", "192.0.2.1", "192.0.2.1 ::", true},
		{"192.0.2.0/24 2001:db8::/64", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", true},
		{"192.0.2.0/24 2001:db8::/64", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", "192.0.2.1 2001:db8::1", false},
	} {
		p.cfg.NodePortAddresses, p.here.nodePortIPs, p.here.ips = nil, nil, nil
		for _, text := range strings.Fields(c.node) {
			p.here.ips = append(p.here.ips, netip.MustParseAddr(text))
		}
		for _, text := range strings.Fields(c.ranges) {
			p.cfg.NodePortAddresses = append(p.cfg.NodePortAddresses, netip.MustParsePrefix(text))
		}
		for _, text := range strings.Fields(c.here) {
			p.here.nodePortIPs = append(p.here.nodePortIPs, netip.MustParseAddr(text))
		}
		p.families[corev1.IPv6Protocol].active = c.active6
		if got := strings.Trim(fmt.Sprint(p.healthAddresses()), "[]"); got != c.want {
			t.Errorf("with %q at %q, want %q", c.ranges, got, c.want)
		}
	}
}

func check(port uint16, ready ...string) servicePort {
	p := servicePort{healthCheckNodePort: port}
	for _, ip := range ready {
		p.readyHere = append(p.readyHere, netip.MustParseAddr(ip))
	}
	return p
}

// Ports whose policy is Local and whose endpoints are all elsewhere are counted, as they come and go.
func TestLocalPorts(t *testing.T) {
	var l localPorts
	elsewhere := []*discoveryv1.EndpointSlice{slice(endpoint(epC))}
	internal := func(svc *corev1.Service) {
		svc.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	}
	ports := servicePorts(webService(all(nodePort, externalLocal, internal)), elsewhere, here, corev1.IPv4Protocol)
	l.add(ports, 1)
	l.add(servicePorts(webService(internal), elsewhere, here, corev1.IPv4Protocol), 1)
	l.add(servicePorts(webService(internal), nil, here, corev1.IPv4Protocol), 1)
	if (l != localPorts{internal: 2, external: 1}) {
		t.Errorf("counted %+v, want 2 internal and 1 external", l)
	}
	if l.add(ports, -1); (l != localPorts{internal: 1}) {
		t.Errorf("when one is gone, counted %+v, want 1 internal", l)
	}
}
