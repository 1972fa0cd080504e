// SPDX-License-Identifier: Apache-2.0

package discovery

import (
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skiff-k8s/skiff/registry/rest"
)

// endpointSliceColumns are what kubectl prints, in the order and the words of upstream.
func endpointSliceColumns() []rest.Column[*discoveryv1.EndpointSlice] {
	type E = *discoveryv1.EndpointSlice
	doc := discoveryv1.EndpointSlice{}
	return []rest.Column[E]{
		rest.Name[E](),
		rest.Text("AddressType", rest.Doc(doc, "addressType"), func(o E) string { return string(o.AddressType) }),
		rest.Text("Ports", rest.Doc(doc, "ports"), portsCell),
		rest.Text("Endpoints", rest.Doc(doc, "endpoints"), addressesCell),
		rest.Age[E](),
	}
}

func portsCell(o *discoveryv1.EndpointSlice) string {
	var out []string
	for _, p := range o.Ports {
		switch {
		case p.Port != nil:
			out = append(out, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			out = append(out, *p.Name)
		default:
			out = append(out, "*")
		}
	}
	return rest.Or(rest.FirstFew(out, 3, len(out)), "<unset>")
}

func addressesCell(o *discoveryv1.EndpointSlice) string {
	var out []string
	for _, e := range o.Endpoints {
		out = append(out, e.Addresses...)
	}
	return rest.Or(rest.FirstFew(out, 3, len(out)), "<unset>")
}
