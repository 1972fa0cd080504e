// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"testing"

	"github.com/skiff-k8s/skiff/gateway/table"
)

// A host that nothing is served for is another listener's matter if connections with the server name are.
func TestApart(t *testing.T) {
	ix := &index{listeners: []*listener{
		{Listener: &table.Listener{}, shadowed: []string{"a.org", "*.b.org"}},
		{Listener: &table.Listener{Hostname: "a.org"}},
		{Listener: &table.Listener{Hostname: "*.b.org"}},
	}}
	only := &index{listeners: []*listener{{Listener: &table.Listener{Hostname: "a.org"}}}}
	for _, test := range []struct {
		ix         *index
		name, host string
		want       bool
	}{
		{ix, "a.org", "a.org", false},
		{ix, "a.org", "unknown.org", true},
		{ix, "x.b.org", "y.b.org", false},
		{ix, "x.b.org", "a.org", true},
		{ix, "unknown.org", "other.org", false},
		{ix, "unknown.org", "a.org", true},
		{only, "a.org", "unknown.org", false}, // no listener at all
		{nil, "a.org", "a.org", false},
	} {
		if got := test.ix.apart(test.name, test.host); got != test.want {
			t.Errorf("%s on a connection for %s: %v, want %v", test.host, test.name, got, test.want)
		}
	}
}
