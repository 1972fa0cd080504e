// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/registry/stories"
	"github.com/skiff-k8s/skiff/testenv"
)

// Clients find the resources of Kubernetes under the same names, with the same verbs. testdata/discovery.txt is what
// its GA versions have (conformance/rules writes it); the groups of testenv are those of the registry, so what needs a
// node, a proxy or another server is not there.
func TestDiscovery(t *testing.T) {
	content, err := os.ReadFile("testdata/discovery.txt")
	if err != nil {
		t.Fatal(err)
	}
	env := testenv.Start(t)
	var got []string
	served := map[string]bool{}
	groups, err := env.Client.Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			list, err := env.Client.Discovery().ServerResourcesForGroupVersion(v.GroupVersion)
			if err != nil {
				t.Fatal(err)
			}
			served[v.GroupVersion] = true
			got = append(got, stories.DiscoveryLines(list)...)
		}
	}
	for line := range strings.Lines(string(content)) {
		line = strings.TrimSpace(line)
		gv, rest, _ := strings.Cut(line, " ")
		name, _, _ := strings.Cut(rest, " ")
		if slices.Contains(elsewhere, name) || slices.Contains(elsewhere, gv) {
			continue
		}
		if !served[gv] {
			t.Errorf("%s is not served", gv)
			served[gv] = true // say it once
			continue
		}
		if !slices.Contains(got, line) {
			i := slices.IndexFunc(got, func(l string) bool { return strings.HasPrefix(l, gv+" "+name+" ") })
			have := "nothing"
			if i >= 0 {
				have = got[i]
			}
			t.Errorf("discovery has\n\t%s, want\n\t%s", have, line)
		}
	}
}

// elsewhere are resources and groups that testenv has no use for: they are connections to nodes, or the whole server makes them.
var elsewhere = []string{
	"componentstatuses", "nodes/proxy", "pods/attach", "pods/exec", "pods/log", "pods/portforward", "pods/proxy", "pods/eviction",
	"services/proxy", "serviceaccounts/token", "authentication.k8s.io/v1", "authorization.k8s.io/v1",
}
