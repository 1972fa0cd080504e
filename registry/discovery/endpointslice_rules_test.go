// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"fmt"
	"slices"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func lines(errs field.ErrorList) []string {
	list := make([]string, 0, len(errs))
	for _, e := range errs {
		list = append(list, fmt.Sprintf("%s: %s", e.Field, e.Type))
	}
	return list
}

func TestEndpointSlice(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*discoveryv1.EndpointSlice)
		want []string
	}{
		{"valid", func(*discoveryv1.EndpointSlice) {}, nil},
		{"type", func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPv5" }, []string{"addressType: Unsupported value"}},
		{"family", func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeIPv6 }, []string{"endpoints[0].addresses: Invalid value"}},
		{"addresses", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = []discoveryv1.Endpoint{{}, {Addresses: []string{"127.0.0.1", "x"}, NodeName: ptr.To("N"), Hostname: ptr.To("a.b")}}
		}, []string{
			"endpoints[0].addresses: Required value", "endpoints[1].addresses[0]: Invalid value", "endpoints[1].addresses[1]: Invalid value",
			"endpoints[1].nodeName: Invalid value", "endpoints[1].hostname: Invalid value",
		}},
		{"ports", func(s *discoveryv1.EndpointSlice) {
			s.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("a")}, {Name: ptr.To("a")}}
		}, []string{"ports[1].name: Duplicate value"}},
		{"hints", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z"}, {Name: "z"}}, ForNodes: []discoveryv1.ForNode{{Name: "N"}}}
		}, []string{"endpoints[0].hints.forZones[1].name: Duplicate value", "endpoints[0].hints.forNodes[0].name: Invalid value"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &discoveryv1.EndpointSlice{
				ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop"}, AddressType: discoveryv1.AddressTypeIPv4,
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.7"}}}, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}},
			}
			test.edit(s)
			defaultEndpointSlice(s)
			if got := lines(validateEndpointSlice(s)); !slices.Equal(got, test.want) && len(got)+len(test.want) > 0 {
				t.Errorf("errors are %q, want %q", got, test.want)
			}
			if got := lines(validateEndpointSliceUpdate(s, s)); test.name == "addresses" && len(got) > 0 {
				t.Errorf("endpoints that were stored so are refused: %q", got)
			}
		})
	}
}
