// SPDX-License-Identifier: Apache-2.0

// Package e2e runs whole nodes on test hosts with real containers, as a user would: the built binary, its
// command line, and kubectl.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/skiff-k8s/skiff/e2e/testimage"
	"github.com/skiff-k8s/skiff/testhost"
)

// node is a Skiff server on a test host of its own.
type node struct {
	*testhost.Host
	t      *testing.T
	binary string
	flags  []string // of the server, besides the usual ones
	env    []string // of kubectl; nil: this process's
	log    string   // of the server, on this machine
	server *server
	other  bool // its container runtime is not Skiff's own
}

// server is the running process, which outlives the subtest that started it.
type server struct {
	ctx     context.Context // of the whole test
	process *testhost.Process
}

// newNode starts a server and waits until its Node is Ready.
func newNode(t *testing.T, flags ...string) *node {
	t.Helper()
	n := newHost(t)
	n.flags = flags
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	return n
}

// ownServicesStand waits until the Services that Skiff itself makes are in the rules, which may be after the node is Ready. What
// comes later belongs to what a test makes.
func (n *node) ownServicesStand() {
	n.t.Helper()
	n.eventually(30*time.Second, "the API's and the DNS's Service are in the rules", func() error {
		rules := n.inside("iptables-save", "-t", "nat")
		for _, port := range []string{"default/kubernetes:https", "kube-system/kube-dns:dns-tcp"} {
			if !strings.Contains(rules, port+" cluster IP") {
				return fmt.Errorf("no rule leads to the endpoints of %s", port)
			}
		}
		return nil
	})
}

// newHost is where a node can be started: it has the images.
func newHost(t *testing.T) *node {
	t.Helper()
	return newHostOn(t, testhost.NewCluster(t, 0), "alpha")
}

// newHostOn makes one that has others beside it.
func newHostOn(t *testing.T, network *testhost.Cluster, name string) *node {
	t.Helper()
	n := &node{Host: network.Add(t, testhost.Options{Name: name}), t: t, binary: binary(t), log: filepath.Join(t.TempDir(), "skiff.log"), server: &server{ctx: t.Context()}}
	images := n.Path("/var/lib/skiff/agent/images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"stable", "next"} {
		if err := testimage.WriteBusybox(filepath.Join(images, "busybox-"+tag+".tar"), "docker.io/library/busybox:"+tag); err != nil {
			t.Fatal(err)
		}
	}
	compress(t, filepath.Join(images, "busybox-next.tar"))
	if err := os.WriteFile(n.Path(kubeletFile), []byte(kubeletConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := n.Mark(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(n.log)
			t.Logf("the end of the log of %s:\n%s", name, tail(log, 16000))
		}
	})
	return n
}

// The configuration of all nodes that are not given another one: hosts lie on the disk of the machine that tests run on, which may be
// fuller than a node's should be.
const (
	kubeletFile   = "/etc/kubelet.yaml"
	kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
`
)

// compress makes an archive one that ends with .zst; a node imports both kinds.
func compress(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path+".zst", encoder.EncodeAll(raw, nil), 0o600), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
}

// with is the same node for a subtest.
func (n *node) with(t *testing.T) *node {
	clone := *n
	clone.t = t
	return &clone
}

// binary is what `make build` made.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v (run make build)", err)
	}
	return path
}

// start runs the server, and waits until kubectl can find its Node.
func (n *node) start() {
	n.t.Helper()
	n.run("server", n.flags...)
	n.eventually(time.Minute, "the Node is there", func() error {
		_, err := n.try("get", "node", "alpha")
		return err
	})
}

// run runs the server, or an agent.
func (n *node) run(what string, flags ...string) {
	n.t.Helper()
	n.runBy(n.Start, what, flags...)
}

// runAt is run with a clock that is ahead of the machine's.
func (n *node) runAt(ahead time.Duration, what string, flags ...string) {
	n.t.Helper()
	n.runBy(func(cmd *exec.Cmd) (*testhost.Process, error) { return n.StartWithClock(cmd, ahead) }, what, flags...)
}

// setClock sets the clock of what runAt runs.
func (n *node) setClock(ahead time.Duration) {
	n.t.Helper()
	if err := n.server.process.SetClock(ahead); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) runBy(start func(*exec.Cmd) (*testhost.Process, error), what string, flags ...string) {
	n.t.Helper()
	flags = append([]string{what, "--node-name", n.Name(), "--node-ip", n.IP().String(), "--cgroup-root", n.CgroupRoot()}, flags...)
	cmd := n.Command(n.server.ctx, n.binary, flags...)
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "SKIFF_KUBELET_CONFIG="+kubeletFile)
	if n.server.process, err = start(cmd); err != nil {
		n.t.Fatal(err)
	}
}

// command is a kubectl in the host.
func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := n.Command(ctx, n.binary, append([]string{"kubectl", "--kubeconfig=/etc/skiff/skiff.yaml"}, args...)...)
	cmd.Env = n.env
	return cmd
}

// try runs kubectl and returns what it printed.
func (n *node) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	return output(n.command(ctx, args...))
}

// pipe is try with something to read.
func (n *node) pipe(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := n.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	return output(cmd)
}

func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// kubectl is try for what has to work.
func (n *node) kubectl(args ...string) string {
	n.t.Helper()
	out, err := n.try(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// inside runs a command in the host that has to work.
func (n *node) inside(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Output(n.t.Context(), name, args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// eventually waits until check returns nil.
func (n *node) eventually(limit time.Duration, what string, check func() error) {
	n.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("after %s not true: %s: %v", limit, what, err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-n.t.Context().Done():
			n.t.Fatalf("waiting until %s: %v", what, n.t.Context().Err())
		}
	}
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}
