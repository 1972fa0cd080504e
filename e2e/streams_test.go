// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"time"
)

// reachesIntoPods uses what goes through the kubelet's streams, on the pod "client" of TestWeb.
func (n *node) reachesIntoPods() {
	n.t.Helper()
	if out := n.kubectl("exec", "-n", "demo", "client", "--", "sh", "-c", "echo $((6*7))"); out != "42\n" {
		n.t.Errorf("exec = %q, want 42", out)
	}
	stdin := n.command(n.t.Context(), "exec", "-i", "-n", "demo", "client", "--", "cat")
	stdin.Stdin = strings.NewReader("through\n")
	if out, err := output(stdin); err != nil || out != "through\n" {
		n.t.Errorf("exec -i cat = %q, %v; want what was sent", out, err)
	}
	if _, err := n.try("exec", "-n", "demo", "client", "--", "sh", "-c", "exit 3"); err == nil || !strings.Contains(err.Error(), "exit code 3") {
		n.t.Errorf("exec exit 3 = %v, want exit code 3", err)
	}
	n.followsLogs()
	n.forwardsPorts()
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
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it ends by being killed
	}()
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() || !strings.Contains(lines.Text(), "Forwarding from") {
		n.t.Fatalf("port-forward says %q, want where it forwards from", lines.Text())
	}
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
	if err != nil || before == "" {
		n.t.Fatalf("running containers = %q, %v", before, err)
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
	n.eventually(30*time.Second, "exec works again", func() error {
		if out, err := n.try("exec", "-n", "demo", "client", "--", "echo", "back"); err != nil || out != "back\n" {
			return fmt.Errorf("exec = %q, %w", out, err)
		}
		return nil
	})
}
