// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
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
		`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1`)

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
