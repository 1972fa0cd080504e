// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A stock kubectl and skiff kubectl do the same: they print the same and end with the same exit code, also for
// what cannot work.
func TestStockKubectl(t *testing.T) {
	t.Parallel()
	stock := buildKubectl(t)
	n := newNode(t)
	example, err := filepath.Abs("../examples/web.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n.kubectl("create", "namespace", "demo")
	n.kubectl("apply", "-n", "demo", "-f", example)
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=120s")
	for _, line := range []string{
		"get nodes -o wide", "get all -n demo", "get pods -n demo -o yaml", "get service web -n demo -o json", "get namespaces --show-labels",
		"describe deployment web -n demo", "describe service web -n demo", "rollout history deployment/web -n demo",
		"api-resources", "api-versions", "explain deployment.spec.strategy", "explain pods --recursive", "auth can-i --list", "auth whoami",
		"cluster-info", "get --raw /version", "config view", "options", "get --help",
		"apply -n demo -f " + example, "diff -n demo -f " + example, "apply -n demo --dry-run=server -o yaml -f " + example,
		"apply -n demo --server-side --dry-run=server -f " + example,
		"create configmap settings -n demo --from-literal=a=b --dry-run=client -o yaml",
		"exec -n demo deployment/web -- id", "exec -n demo deployment/web -- sh -c 'exit 7'",
		// What cannot work.
		"gett pods", "get nothing", "get pod none -n demo", "get pods --colour", "delete deployment none -n demo", "logs none -n demo",
		"create namespace demo", "create configmap x -n none", "create namespace A_b", "scale deployment/web --replicas=-1 -n demo", "label pod none a=b -n demo",
		"set image deployment/web none=busybox -n demo", "patch service web -n demo -p {", "auth can-i fly pods --as=nobody", "-v=x get pods",
	} {
		t.Run(strings.ReplaceAll(line, "/", "_"), func(t *testing.T) {
			n := n.with(t)
			want := n.says(stock, line)
			got := n.says(n.binary+" kubectl", line)
			if got != want {
				t.Errorf("skiff kubectl %s:\n%s\nwant what kubectl says:\n%s", line, got, want)
			}
		})
	}
}

// buildKubectl builds upstream's own program, of the module that runs upstream's conformance suite.
func buildKubectl(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubectl")
	out, err := exec.Command("go", "build", "-C", "../conformance", "-o", path, "k8s.io/kubernetes/cmd/kubectl").CombinedOutput()
	if err != nil {
		t.Fatalf("build kubectl: %v\n%s", err, out)
	}
	return path
}

// passing is what is another at each look: ages and times.
var passing = regexp.MustCompile(`\b(\d+m)?\d+s\b|\b\d+m\b|\d{4}-\d\d-\d\dT[0-9:.]+Z`)

// says runs a line of shell and returns all that a person sees of it.
func (n *node) says(kubectl, line string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	cmd := n.Command(ctx, "sh", "-c", kubectl+" "+line)
	cmd.Env = append(os.Environ(), "KUBECONFIG=/etc/skiff/skiff.yaml")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatal(err)
	}
	all := fmt.Sprintf("%s\n%s\nexit code %d", stdout.String(), stderr.String(), cmd.ProcessState.ExitCode())
	return passing.ReplaceAllString(all, "TIME")
}
