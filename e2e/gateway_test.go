// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What docs/gateway-api.md says: nothing is installed before somebody uses the Gateway API, and then the example is served at
// the node's port 80.
func TestGatewayAPI(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	at := n.IP().String()
	if crds := n.kubectl("get", "crd", "-o", "name"); strings.TrimSpace(crds) != "" {
		t.Errorf("before anybody uses the API there are %s", crds)
	}
	if resources := n.kubectl("api-resources", "--api-group=gateway.networking.k8s.io"); !strings.Contains(resources, "httproutes") {
		t.Errorf("discovery has %s", resources)
	}
	if crds := n.kubectl("get", "crd", "-o", "name"); strings.TrimSpace(crds) != "" {
		t.Errorf("discovery alone has installed %s", crds)
	}
	n.kubectl("create", "namespace", "demo")
	for _, file := range []string{"web.yaml", "gateway.yaml"} {
		example, err := filepath.Abs("../examples/" + file)
		if err != nil {
			t.Fatal(err)
		}
		n.kubectl("apply", "-n", "demo", "-f", example)
	}
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=120s")
	n.kubectl("wait", "-n", "demo", "--for=condition=Programmed", "gateway/web", "--timeout=60s")
	n.kubectl("wait", "-n", "demo", "--for=jsonpath={.status.addresses[0].value}="+at, "gateway/web", "--timeout=60s")

	curl := func(address string) (string, error) {
		out, err := n.Output(t.Context(), "curl", "-sS", "--max-time", "5", "-H", "Host: web.example.com", "http://"+address+"/")
		return strings.TrimSpace(out), err
	}
	pods, seen := n.podNames("app=web"), map[string]bool{}
	n.eventually(30*time.Second, "all pods answer", func() error {
		out, err := curl(at)
		if err != nil {
			return err
		}
		if seen[out] = true; len(seen) < len(pods) {
			return fmt.Errorf("answers of %v, want those of %q", seen, pods)
		}
		return nil
	})

	// A second Gateway with the same port is reached at an address of its own.
	n.kubectl("patch", "-n", "demo", "httproute/web", "--type=json", `-p=[{"op":"add","path":"/spec/parentRefs/-","value":{"name":"second"}}]`)
	n.apply(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: second, namespace: demo},
		spec: {gatewayClassName: skiff, listeners: [{name: http, port: 80, protocol: HTTP}]}}`)
	n.kubectl("wait", "-n", "demo", "--for=condition=Programmed", "gateway/second", "--timeout=60s")
	second := n.kubectl("get", "-n", "demo", "gateway/second", "-o", "jsonpath={.status.addresses[0].value}")
	if second == at {
		t.Errorf("both Gateways are at %s", at)
	}
	n.eventually(30*time.Second, "the second Gateway answers", func() error {
		out, err := curl(second)
		if err == nil && !strings.HasPrefix(out, "web-") {
			err = errors.New(out)
		}
		return err
	})

	n.kubectl("delete", "-n", "demo", "gateway/web")
	n.eventually(60*time.Second, "the second Gateway gets the node's address", func() error {
		out, err := curl(at)
		if err == nil && !strings.HasPrefix(out, "web-") {
			err = errors.New(out)
		}
		return err
	})
}
