// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Who says nothing about himself is told how the server is, its version, and nothing else; nothing but the API, the
// kubelet and the health of the proxy listens to the outside, and etcd not even to this machine.
func TestDoors(t *testing.T) {
	n := newNode(t)
	ask := func(path string) string {
		return n.inside("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", "https://127.0.0.1:6443"+path)
	}
	for _, path := range []string{"/livez", "/readyz", "/healthz", "/version"} {
		if code := ask(path); code != "200" {
			t.Errorf("anonymous %s = %s, want 200", path, code)
		}
	}
	for _, path := range []string{"/", "/api", "/apis", "/api/v1/namespaces", "/livez/etcd", "/livez/", "/readyz/ping", "/version/", "/metrics", "/openapi/v2", "/openapi/v3",
		"/openid/v1/jwks", "/.well-known/openid-configuration", "/logs", "/debug/pprof", "/nowhere"} {
		if code := ask(path); code != "401" {
			t.Errorf("anonymous %s = %s, want 401", path, code)
		}
	}
	listeners := n.inside("ss", "-Hltn")
	var doors []string
	for line := range strings.Lines(listeners) {
		address := strings.Fields(line)[3]
		host, port := address[:strings.LastIndex(address, ":")], address[strings.LastIndex(address, ":")+1:]
		if host == "127.0.0.1" && port != "2379" && port != "2380" {
			continue // containerd's streams, each behind a token that is used once
		}
		doors = append(doors, port)
	}
	slices.Sort(doors)
	if want := []string{"10250", "10256", "53", "6443"}; !slices.Equal(doors, want) {
		t.Errorf("there listen %v, want %v\n%s", doors, want, listeners)
	}
	// What is secret is its owner's.
	for _, path := range []string{"/etc/skiff/skiff.yaml", "/var/lib/skiff/server/tls/admin.key", "/var/lib/skiff/server/tls/sa.key"} {
		if info, err := os.Stat(n.Path(path)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", path, info.Mode(), err)
		}
	}
	for _, ca := range []string{"server-ca", "kubelet-ca", "client-ca", "request-header-ca", "etcd/peer-ca"} {
		if _, err := os.Stat(n.Path("/var/lib/skiff/server/tls/" + ca + ".crt")); err != nil {
			t.Error(err)
		}
	}
}
