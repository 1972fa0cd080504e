// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// protocols are the ways in which kubectl and the kubelet exchange streams, with what makes kubectl take them
// and the verb by which it then asks.
var protocols = []struct {
	name, verb string
	env        []string
}{
	{"WebSocket", "GET", []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true", "KUBECTL_PORT_FORWARD_WEBSOCKETS=true"}},
	{"SPDY", "POST", []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"}},
}

// reachesIntoPods uses what goes through the kubelet's streams, on the pod "client" of TestWeb.
func (n *node) reachesIntoPods(t *testing.T) {
	for _, p := range protocols {
		t.Run(p.name, func(t *testing.T) {
			n := n.with(t)
			n.env = append(os.Environ(), p.env...)
			n.speaks(p.verb)
			n.executes()
			n.attaches()
			n.copies()
			n.forwardsPorts()
		})
	}
	t.Run("logs", func(t *testing.T) { n.with(t).followsLogs() })
}

// speaks makes sure that the protocol is the one that is meant.
func (n *node) speaks(verb string) {
	n.t.Helper()
	cmd := n.command(n.t.Context(), "exec", "-v=6", "-n", "demo", "client", "--", "true")
	out, err := cmd.CombinedOutput()
	want := regexp.MustCompile(`verb="` + verb + `" url="[^"]*/exec\?[^"]*" status="101 Switching Protocols"`)
	if err != nil || !want.Match(out) {
		n.t.Errorf("exec -v=6 = %v, want a request by %s that is answered with 101:\n%s", err, verb, out)
	}
}

func (n *node) executes() {
	n.t.Helper()
	if out := n.kubectl("exec", "-n", "demo", "client", "--", "sh", "-c", "echo $((6*7))"); out != "42\n" {
		n.t.Errorf("exec = %q, want 42", out)
	}
	if out, err := n.pipe("through\n", "exec", "-i", "-n", "demo", "client", "--", "cat"); err != nil || out != "through\n" {
		n.t.Errorf("exec -i cat = %q, %v; want what was sent", out, err)
	}
	// script gives kubectl a terminal.
	cmd := n.Command(n.t.Context(), "script", "-qec", n.binary+" kubectl --kubeconfig=/etc/skiff/skiff.yaml exec -it -n demo client -- tty", "/dev/null")
	cmd.Env = n.env
	if out, err := output(cmd); err != nil || !strings.Contains(out, "/dev/pts/") {
		n.t.Errorf("exec -it tty = %q, %v; want a terminal", out, err)
	}
	if _, err := n.try("exec", "-n", "demo", "client", "--", "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "exit code 3") {
		n.t.Errorf("exec exit 3 = %v, want exit code 3", err)
	}
}

// attaches speaks to the first process of a pod that repeats what it hears.
func (n *node) attaches() {
	n.t.Helper()
	n.kubectl("run", "-n", "demo", "parrot", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--restart=Never",
		"--stdin", "--attach=false", "--leave-stdin-open", "--", "sh", "-c", "while read -r line; do echo heard $line; done")
	n.kubectl("wait", "-n", "demo", "--for=condition=Ready", "pod/parrot", "--timeout=60s")
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	cmd := n.command(ctx, "attach", "-i", "-q", "-n", "demo", "parrot")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	heard := n.firstLine(cmd, func() { fmt.Fprintln(stdin, "hello") })
	if heard != "heard hello" {
		n.t.Errorf("attach -i = %q, want what the process answers", heard)
	}
	// With the end of its input, kubectl leaves the process alone and ends.
	if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
		n.t.Errorf("end of attach -i: %v", err)
	}
	n.kubectl("delete", "pod", "-n", "demo", "parrot", "--grace-period=1")
}

// copies sends a file to a pod and gets it back.
func (n *node) copies() {
	n.t.Helper()
	content := strings.Repeat("all of it\n", 100_000)
	if err := os.WriteFile(n.Path("/run/there"), []byte(content), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.kubectl("cp", "/run/there", "demo/client:/tmp/file")
	n.kubectl("cp", "demo/client:/tmp/file", "/run/back")
	if got, err := os.ReadFile(n.Path("/run/back")); err != nil || string(got) != content {
		n.t.Errorf("cp to a pod and back = %d bytes, %v; want the %d that were sent", len(got), err, len(content))
	}
}

// firstLine starts a command and returns the first line it prints after act.
func (n *node) firstLine(cmd *exec.Cmd, act func()) string {
	n.t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		n.t.Fatal(err)
	}
	act()
	lines := bufio.NewScanner(stdout)
	lines.Scan()
	return lines.Text()
}

func (n *node) followsLogs() {
	n.t.Helper()
	n.kubectl("run", "-n", "demo", "talker", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--restart=Never", "--",
		"sh", "-c", "for i in 1 2 3; do echo line $i; sleep 1; done")
	n.kubectl("wait", "-n", "demo", "--for=jsonpath={.status.containerStatuses[0].started}=true", "pod/talker", "--timeout=60s")
	if out := n.kubectl("logs", "-f", "-n", "demo", "talker"); out != "line 1\nline 2\nline 3\n" {
		n.t.Errorf("logs -f = %q, want three lines", out)
	}
	n.kubectl("wait", "-n", "demo", "--for=jsonpath={.status.phase}=Succeeded", "pod/talker", "--timeout=30s")
	if out := n.kubectl("logs", "-n", "demo", "talker", "--tail=1"); out != "line 3\n" {
		n.t.Errorf("logs --tail=1 = %q, want the last line", out)
	}
}

func (n *node) forwardsPorts() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	cmd := n.command(ctx, "port-forward", "-n", "demo", "deployment/web", "18080:8080")
	if line := n.firstLine(cmd, func() {}); !strings.Contains(line, "Forwarding from") {
		n.t.Errorf("port-forward says %q, want where it forwards from", line)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it ends by being killed
	}()
	if out := n.inside("curl", "-sS", "--max-time", "10", "http://127.0.0.1:18080/"); !strings.HasPrefix(out, "web-") {
		n.t.Errorf("through the forwarded port = %q, want a pod's name", out)
	}
}

// survivesKill ends the server without warning and starts it again.
func (n *node) survivesKill() {
	n.t.Helper()
	const started = "jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].state.running.startedAt} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}"
	running := func() (string, error) {
		return n.try("get", "pods", "-n", "demo", "--field-selector=status.phase=Running", "-o", started)
	}
	before, err := running()
	containers := n.containers("demo")
	if err != nil || before == "" || len(containers) < 2*strings.Count(before, "\n") {
		n.t.Fatalf("running containers = %q, %v, of which the runtime knows %q", before, err, containers)
	}
	if err := n.server.process.Kill(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.kubectl("rollout", "status", "-n", "demo", "deployment/web", "--timeout=60s")
	after, err := running()
	if err != nil || after != before {
		n.t.Errorf("after kill -9 and a new start (%v):\n%s\nwant the containers and start times of before:\n%s", err, after, before)
	}
	if now := n.containers("demo"); !slices.Equal(now, containers) {
		n.t.Errorf("after kill -9 and a new start, the runtime has\n%q\nwant what it had\n%q", now, containers)
	}
	n.eventually(30*time.Second, "exec works again", func() error {
		if out, err := n.try("exec", "-n", "demo", "client", "--", "echo", "back"); err != nil || out != "back\n" {
			return fmt.Errorf("exec = %q, %w", out, err)
		}
		return nil
	})
}
