// SPDX-License-Identifier: Apache-2.0

package skiff

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/conformance/cluster"
	"github.com/skiff-k8s/skiff/testhost"
)

// kubeconfigVariable names a cluster to test instead of one of our own.
const kubeconfigVariable = "SKIFF_CONFORMANCE_KUBECONFIG"

// bench is a cluster, and kubectl for it.
type bench struct {
	t       *testing.T
	cluster cluster.Cluster
	own     *cluster.Own // nil: somebody else's
	binary  string
}

// anyCluster is the cluster of KUBECONFIG=, or one of our own.
func anyCluster(t *testing.T) *bench {
	t.Helper()
	path := os.Getenv(kubeconfigVariable)
	if path == "" {
		return ownCluster(t, nil)
	}
	existing, err := cluster.Existing(path)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{t: t, cluster: existing, binary: binary(t)}
}

// ownCluster starts a server on a test host, which prepare may change before. The test fails if it leaves anything
// on this machine.
func ownCluster(t *testing.T, prepare func(*testhost.Host) error, flags ...string) *bench {
	t.Helper()
	if os.Getenv(kubeconfigVariable) != "" {
		t.Skip("needs a host of its own, and KUBECONFIG= is somebody else's cluster")
	}
	own, err := cluster.Start(t.Context(), cluster.Config{
		Binary: binary(t), Prepare: prepare, LogDir: t.TempDir(), Flags: flags, Say: t.Logf,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{t: t, cluster: own, own: own, binary: binary(t)}
}

// binary is what `make build` made.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (run make build)", err)
	}
	return path
}

// kubectl runs a command that has to work, and returns what it printed.
func (b *bench) kubectl(stdin string, args ...string) string {
	b.t.Helper()
	out, err := b.try(b.t.Context(), stdin, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// try runs kubectl. The error has what it said.
func (b *bench) try(ctx context.Context, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := b.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (b *bench) command(ctx context.Context, args ...string) *exec.Cmd {
	return b.cluster.Command(ctx, b.binary, append([]string{"kubectl", "--kubeconfig=" + b.cluster.Kubeconfig()}, args...)...)
}

// namespace makes one that goes with the test.
func (b *bench) namespace(name string) {
	b.t.Helper()
	b.kubectl("", "create", "namespace", name)
	b.kubectl("", "wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=30s")
	b.t.Cleanup(func() {
		if b.own == nil { // an own cluster goes as a whole
			if _, err := b.try(context.Background(), "", "delete", "namespace", name); err != nil {
				b.t.Error(err)
			}
		}
	})
}
