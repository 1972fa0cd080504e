// SPDX-License-Identifier: Apache-2.0

package endpointslicemirroring

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func newEndpoints(subsets ...corev1.EndpointSubset) *corev1.Endpoints {
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "ns", UID: "1", Labels: map[string]string{"app": "db"}, Annotations: map[string]string{
			"kept": "yes", corev1.EndpointsLastChangeTriggerTime: "now", corev1.LastAppliedConfigAnnotation: "{}",
		}},
		Subsets: subsets,
	}
}

func ports(numbers ...int32) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for _, n := range numbers {
		out = append(out, corev1.EndpointPort{Name: fmt.Sprint("p", n), Port: n, Protocol: corev1.ProtocolTCP})
	}
	return out
}

func addresses(ips ...string) []corev1.EndpointAddress {
	var out []corev1.EndpointAddress
	for _, ip := range ips {
		out = append(out, corev1.EndpointAddress{IP: ip})
	}
	return out
}

// text writes groups as "IPv4 p80 10.0.0.1 10.0.0.2!", where ! is not ready.
func text(groups []group) string {
	var lines []string
	for _, g := range groups {
		words := []string{string(g.family)}
		for _, p := range g.ports {
			words = append(words, *p.Name)
		}
		for _, e := range g.endpoints {
			word := e.Addresses[0]
			if !*e.Conditions.Ready {
				word += "!"
			}
			words = append(words, word)
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return strings.Join(lines, "; ")
}

func TestMirror(t *testing.T) {
	for _, test := range []struct {
		name    string
		subsets []corev1.EndpointSubset
		want    string
		invalid int
	}{
		{name: "nothing"},
		{
			name:    "ready and not ready",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.2", "10.0.0.1"), NotReadyAddresses: addresses("10.0.0.3"), Ports: ports(80)}},
			want:    "IPv4 p80 10.0.0.1 10.0.0.2 10.0.0.3!",
		},
		{
			name:    "both families",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.1", "fd00::1"), Ports: ports(80)}},
			want:    "IPv4 p80 10.0.0.1; IPv6 p80 fd00::1",
		},
		{
			name:    "not an address",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("example", "10.0.0.1"), Ports: ports(80)}},
			want:    "IPv4 p80 10.0.0.1", invalid: 1,
		},
		{
			name: "subsets with the same addresses",
			subsets: []corev1.EndpointSubset{
				{Addresses: addresses("10.0.0.1"), Ports: ports(80)}, {Addresses: addresses("10.0.0.1"), Ports: ports(443)},
			},
			want: "IPv4 p443 p80 10.0.0.1",
		},
		{
			name: "not ready trumps ready",
			subsets: []corev1.EndpointSubset{
				{Addresses: addresses("10.0.0.1"), Ports: ports(80)}, {NotReadyAddresses: addresses("10.0.0.1"), Ports: ports(80)},
			},
			want: "IPv4 p80 10.0.0.1!",
		},
		{
			name: "ready by one port only",
			subsets: []corev1.EndpointSubset{
				{Addresses: addresses("10.0.0.1"), Ports: ports(80)}, {NotReadyAddresses: addresses("10.0.0.1"), Ports: ports(443)},
			},
			want: "IPv4 p443 10.0.0.1!; IPv4 p80 10.0.0.1",
		},
		{
			name:    "no ports",
			subsets: []corev1.EndpointSubset{{Addresses: addresses("10.0.0.1")}},
			want:    "IPv4 10.0.0.1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := mirror(newEndpoints(test.subsets...))
			if text(got.groups) != test.want || got.invalid != test.invalid || got.skipped != test.invalid {
				t.Errorf("mirror = %q, %d invalid, %d skipped; want %q, %d", text(got.groups), got.invalid, got.skipped, test.want, test.invalid)
			}
		})
	}
}

func TestTooManyAddresses(t *testing.T) {
	var ips []string
	for i := range 1003 {
		ips = append(ips, fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
	}
	got := mirror(newEndpoints(corev1.EndpointSubset{Addresses: addresses(ips...), Ports: ports(80)}))
	if len(got.groups) != 1 || len(got.groups[0].endpoints) != 1000 || got.skipped != 3 {
		t.Errorf("%d groups, %d skipped; want 1000 addresses and 3 skipped", len(got.groups), got.skipped)
	}
}

// What was written once needs no write any more; what changed needs as few as possible.
func TestDiff(t *testing.T) {
	old := newEndpoints(corev1.EndpointSubset{Addresses: addresses("10.0.0.1", "10.0.0.2"), Ports: ports(80)})
	first := diff(old, mirror(old).groups, nil)
	if len(first.create) != 1 || len(first.update)+len(first.remove) != 0 {
		t.Fatalf("first = %+v, want one slice to create", first)
	}
	slice := first.create[0]
	slice.Name = "db-1"
	if slice.GenerateName != "db-" || slice.Labels[discoveryv1.LabelServiceName] != "db" || slice.Labels["app"] != "db" ||
		len(slice.Annotations) != 1 || slice.Annotations["kept"] != "yes" || slice.OwnerReferences[0].Kind != "Endpoints" {
		t.Errorf("metadata = %+v", slice.ObjectMeta)
	}
	existing := func() []*discoveryv1.EndpointSlice { return []*discoveryv1.EndpointSlice{slice.DeepCopy()} }
	for _, test := range []struct {
		name                   string
		change                 func(e *corev1.Endpoints, existing *[]*discoveryv1.EndpointSlice)
		create, update, remove int
	}{
		{name: "nothing", change: func(*corev1.Endpoints, *[]*discoveryv1.EndpointSlice) {}},
		{name: "order", change: func(_ *corev1.Endpoints, have *[]*discoveryv1.EndpointSlice) {
			e := (*have)[0].Endpoints
			e[0], e[1] = e[1], e[0]
		}},
		{name: "an address", change: func(e *corev1.Endpoints, _ *[]*discoveryv1.EndpointSlice) {
			e.Subsets[0].Addresses = addresses("10.0.0.1")
		}, update: 1},
		{name: "a label", change: func(e *corev1.Endpoints, _ *[]*discoveryv1.EndpointSlice) { e.Labels["more"] = "1" }, update: 1},
		{name: "somebody else's label", change: func(_ *corev1.Endpoints, have *[]*discoveryv1.EndpointSlice) { (*have)[0].Labels["more"] = "1" }, update: 1},
		{name: "made anew", change: func(e *corev1.Endpoints, _ *[]*discoveryv1.EndpointSlice) { e.UID = "2" }, update: 1},
		{name: "other ports", change: func(e *corev1.Endpoints, _ *[]*discoveryv1.EndpointSlice) { e.Subsets[0].Ports = ports(81) }, update: 1},
		{name: "other family", change: func(e *corev1.Endpoints, _ *[]*discoveryv1.EndpointSlice) {
			e.Subsets[0].Addresses = addresses("fd00::1")
		}, create: 1, remove: 1},
		{name: "a slice twice", change: func(_ *corev1.Endpoints, have *[]*discoveryv1.EndpointSlice) {
			twin := (*have)[0].DeepCopy()
			twin.Name = "db-2"
			*have = append(*have, twin)
		}, remove: 1},
		{name: "empty", change: func(e *corev1.Endpoints, _ *[]*discoveryv1.EndpointSlice) { e.Subsets = nil }, remove: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, have := old.DeepCopy(), existing()
			test.change(e, &have)
			todo := diff(e, mirror(e).groups, have)
			if len(todo.create) != test.create || len(todo.update) != test.update || len(todo.remove) != test.remove {
				t.Errorf("create %d, update %d, remove %d; want %d, %d, %d", len(todo.create), len(todo.update), len(todo.remove), test.create, test.update, test.remove)
			}
		})
	}
}
