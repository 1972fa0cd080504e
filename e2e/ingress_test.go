// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

// What docs/gateway.md says of Ingress: the example is served on the node's ports 80 and 443 as soon as it is there, and not before.
func TestIngress(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	at := n.IP().String()
	if out, err := n.Output(t.Context(), "curl", "-sS", "--max-time", "5", "http://"+at+"/"); err == nil {
		t.Errorf("port 80 answers %q before there is an Ingress", out)
	}
	if class := n.kubectl("get", "ingressclass", "skiff", "-o", "jsonpath={.metadata.annotations}"); !strings.Contains(class, "is-default-class") {
		t.Errorf("annotations of the IngressClass are %s, want it to be the default", class)
	}
	n.kubectl("create", "namespace", "demo")
	for _, file := range []string{"web.yaml", "ingress.yaml"} {
		example, err := filepath.Abs("../examples/" + file)
		if err != nil {
			t.Fatal(err)
		}
		n.kubectl("apply", "-n", "demo", "-f", example)
	}
	n.eventually(3*time.Minute, "the pods are ready", func() error {
		if out := n.kubectl("get", "deployment", "-n", "demo", "web", "-o", "jsonpath={.status.readyReplicas}"); out != "3" {
			return errors.New(n.kubectl("get", "pods,events", "-n", "demo"))
		}
		return nil
	})
	n.kubectl("wait", "-n", "demo", "--for=jsonpath={.status.loadBalancer.ingress[0].ip}="+at, "ingress/web", "--timeout=60s")

	curl := func(args ...string) (string, error) {
		args = append([]string{"-sS", "--max-time", "5", "--resolve", "web.example.com:80:" + at, "--resolve", "web.example.com:443:" + at}, args...)
		out, err := n.Output(t.Context(), "curl", args...)
		return strings.TrimSpace(out), err
	}
	pods, seen := n.podNames("app=web"), map[string]bool{}
	n.eventually(30*time.Second, "all pods answer by host name", func() error {
		out, err := curl("http://web.example.com/")
		if err != nil {
			return err
		}
		if seen[out] = true; len(seen) < len(pods) {
			return fmt.Errorf("answers of %v, want those of %q", seen, pods)
		}
		return nil
	})
	for _, pod := range pods {
		if !seen[pod] {
			t.Errorf("answers of %v, want those of %q", seen, pods)
		}
	}
	if code, _ := curl("-o", "/dev/null", "-w", "%{http_code}", "http://"+at+"/"); code != "404" {
		t.Errorf("another host is answered with %s, want 404", code)
	}
	n.eventually(30*time.Second, "an event tells of the missing Secret", func() error {
		if out := n.kubectl("get", "events", "-n", "demo", "--field-selector=involvedObject.name=web,reason=TLSSecretInvalid"); !strings.Contains(out, "demo/web-tls does not exist") {
			return errors.New(out)
		}
		return nil
	})

	// With its Secret it is HTTPS, by HTTP/2, of a name that can be verified.
	dir := t.TempDir()
	certificate, key, err := certutil.GenerateSelfSignedCertKey("web.example.com", []net.IP{}, nil)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir, "web.crt"), certificate, 0o600), os.WriteFile(filepath.Join(dir, "web.key"), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	n.kubectl("create", "secret", "tls", "web-tls", "-n", "demo", "--cert="+filepath.Join(dir, "web.crt"), "--key="+filepath.Join(dir, "web.key"))
	n.eventually(30*time.Second, "it answers by HTTPS", func() error {
		out, err := curl("--cacert", filepath.Join(dir, "web.crt"), "-w", " HTTP/%{http_version}", "https://web.example.com/")
		if err == nil && (!strings.HasPrefix(out, "web-") || !strings.HasSuffix(out, "HTTP/2")) {
			err = errors.New(out)
		}
		return err
	})
	n.eventually(30*time.Second, "the metrics count", func() error {
		if out := n.kubectl("get", "--raw", "/metrics"); !strings.Contains(out, `skiff_gateway_requests_total{code="200",route="demo/web"}`) {
			return errors.New("no skiff_gateway_requests_total of demo/web with code 200")
		}
		return nil
	})

	n.kubectl("delete", "ingress", "-n", "demo", "web")
	n.eventually(30*time.Second, "the ports are given back", func() error {
		for _, scheme := range []string{"http", "https"} {
			if _, err := curl("-k", scheme+"://web.example.com/"); err == nil {
				return fmt.Errorf("%s still answers", scheme)
			}
		}
		return nil
	})
}
