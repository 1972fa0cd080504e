// SPDX-License-Identifier: Apache-2.0

package backend

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/gateway/table"
)

type state struct {
	address                     string
	ready, serving, terminating bool
}

func slice(family discoveryv1.AddressType, port string, number int32, endpoints ...state) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{AddressType: family, Ports: []discoveryv1.EndpointPort{{Name: &port, Port: &number, Protocol: ptr.To(corev1.ProtocolTCP)}}}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{e.address},
			Conditions: discoveryv1.EndpointConditions{Ready: &e.ready, Serving: &e.serving, Terminating: &e.terminating},
		})
	}
	return s
}

func up(address string) state     { return state{address, true, true, false} }
func down(address string) state   { return state{address, false, false, false} }
func ending(address string) state { return state{address, false, true, true} }

func TestEndpoints(t *testing.T) {
	service := &corev1.Service{Spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}}}
	port := corev1.ServicePort{Name: "web", Port: 80}
	for name, test := range map[string]struct {
		slices []*discoveryv1.EndpointSlice
		want   []string
	}{
		"none": {},
		"ready ones only": {
			[]*discoveryv1.EndpointSlice{slice("IPv4", "web", 8080, up("10.0.0.2"), down("10.0.0.3"), ending("10.0.0.4"), up("10.0.0.1"))},
			[]string{"10.0.0.1:8080", "10.0.0.2:8080"},
		},
		"those that end, when no other is left": {
			[]*discoveryv1.EndpointSlice{slice("IPv4", "web", 8080, down("10.0.0.3"), ending("10.0.0.4"))},
			[]string{"10.0.0.4:8080"},
		},
		"ready but terminating (publishNotReadyAddresses)": {
			[]*discoveryv1.EndpointSlice{slice("IPv4", "web", 8080, state{"10.0.0.1", true, true, true})},
			[]string{"10.0.0.1:8080"},
		},
		"other ports are not meant": {
			[]*discoveryv1.EndpointSlice{slice("IPv4", "metrics", 9090, up("10.0.0.1"))}, nil,
		},
		"a name that means different numbers": {
			[]*discoveryv1.EndpointSlice{slice("IPv4", "web", 8080, up("10.0.0.1")), slice("IPv4", "web", 9090, up("10.0.0.2"))},
			[]string{"10.0.0.1:8080", "10.0.0.2:9090"},
		},
		"an endpoint that moves between slices is in both for a moment": {
			[]*discoveryv1.EndpointSlice{slice("IPv4", "web", 8080, up("10.0.0.1")), slice("IPv4", "web", 8080, up("10.0.0.1"))},
			[]string{"10.0.0.1:8080"},
		},
		"one family": {
			[]*discoveryv1.EndpointSlice{slice("IPv6", "web", 8080, up("fd00::1")), slice("IPv4", "web", 8080, up("10.0.0.1"))},
			[]string{"10.0.0.1:8080"},
		},
		"the other family rather than none": {
			[]*discoveryv1.EndpointSlice{slice("IPv6", "web", 8080, up("fd00::1")), slice("IPv4", "web", 8080, ending("10.0.0.1"))},
			[]string{"[fd00::1]:8080"},
		},
		"names are no addresses": {
			[]*discoveryv1.EndpointSlice{slice("FQDN", "web", 8080, up("example.com"))}, nil,
		},
	} {
		var want []netip.AddrPort
		for _, w := range test.want {
			want = append(want, netip.MustParseAddrPort(w))
		}
		if got := Endpoints(service, port, test.slices); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestPort(t *testing.T) {
	svc := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
		{Name: "dns", Port: 80, Protocol: corev1.ProtocolUDP}, {Name: "web", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "admin", Port: 81},
	}}}
	for _, test := range []struct {
		name   string
		number int32
		want   string
	}{{"", 80, "web"}, {"web", 0, "web"}, {"", 81, "admin"}, {"dns", 0, ""}, {"", 82, ""}, {"admin", 80, "admin"}} {
		if got, ok := Port(svc, corev1.ProtocolTCP, test.name, test.number); got.Name != test.want || ok != (test.want != "") {
			t.Errorf("Port(%q, %d) = %q, %v; want %q", test.name, test.number, got.Name, ok, test.want)
		}
	}
}

func TestNew(t *testing.T) {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec:       corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP},
	}
	got := New(svc, corev1.ServicePort{Port: 80, AppProtocol: ptr.To("kubernetes.io/h2c")}, nil)
	if got.Name != "ns/web:80" || got.Protocol != table.AppH2C || !got.ClientIP {
		t.Errorf("New = %+v", got)
	}
}
