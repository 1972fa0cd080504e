// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A node lives through what nodes live through: nothing is lost, no pod runs twice, and nothing is left behind.
func TestFaults(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(config, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncontainerLogMaxSize: 20Ki\ncontainerLogMaxFiles: 3\npodPidsLimit: 64\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newNode(t, "--kubelet-config", config)
	n.kubectl("create", "namespace", "demo")
	if err := n.Mark(); err != nil {
		t.Fatal(err)
	}
	t.Run("a container that ignores SIGTERM ends after its grace", func(t *testing.T) { n.with(t).endsTheDeaf() })
	t.Run("a probe that hangs fails, and holds nothing up", func(t *testing.T) { n.with(t).endsHangingProbe() })
	t.Run("a container above its memory limit is killed, and only that", func(t *testing.T) { n.with(t).endsMemoryHog() })
	t.Run("a fork bomb ends at its limit", func(t *testing.T) { n.with(t).holdsForkBomb() })
	t.Run("an emptyDir above its limit ends its pod", func(t *testing.T) { n.with(t).evictsForDisk() })
	t.Run("logs are followed through a rotation", func(t *testing.T) { n.with(t).followsRotation() })
	t.Run("kill -9 of a shim starts its pod again", func(t *testing.T) { n.with(t).survivesShim() })
	t.Run("a restart of the machine", func(t *testing.T) { n.with(t).survivesReboot() })
	t.Run("nothing is left behind", func(t *testing.T) {
		n := n.with(t)
		n.kubectl("delete", "namespace", "demo", "--timeout=120s")
		n.nothingOf("demo")
	})
}

// runPod makes a pod with one container that runs a shell command. more is YAML of the container, with an indent of four.
func (n *node) runPod(name, script, more string) {
	n.t.Helper()
	n.runWith(name, "busybox:stable", fmt.Sprintf(`["sh", "-c", %q]`, script), "scratch, emptyDir: {sizeLimit: 1Mi}", more)
}

// runWith makes a pod with one container. The volume, of which the name comes first, is mounted under its name.
func (n *node) runWith(name, image, command, volume, more string) {
	n.t.Helper()
	mounted, _, _ := strings.Cut(volume, ",")
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: demo}
spec:
  terminationGracePeriodSeconds: 2
  volumes: [{name: %s}]
  containers:
  - name: main
    image: %s
    imagePullPolicy: IfNotPresent
    command: %s
    volumeMounts: [{name: %s, mountPath: /%s}]
%s`, name, volume, image, command, mounted, mounted, more)
	if _, err := n.pipe(manifest, "apply", "-f", "-"); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { // also when the test has failed: others count pods
		if n.server.ctx.Err() != nil {
			return // the whole test has ended, and the host goes
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(n.t.Context()), time.Minute)
		defer cancel()
		if _, err := output(n.command(ctx, "delete", "pod", "-n", "demo", name, "--ignore-not-found", "--wait=true")); err != nil {
			n.t.Error(err)
		}
	})
}

// becomes waits until a field of a pod is as it should be.
func (n *node) becomes(name, path, want string) {
	n.t.Helper()
	n.eventually(90*time.Second, fmt.Sprintf("%s of pod %s is %q", path, name, want), func() error {
		got, err := n.try("get", "pod", "-n", "demo", name, "-o", "jsonpath={"+path+"}")
		if err == nil && got != want {
			err = fmt.Errorf("it is %q", got)
		}
		return err
	})
}

func (n *node) endsTheDeaf() {
	n.runPod("deaf", `trap "" TERM; while true; do sleep 1; done`, "")
	n.becomes("deaf", ".status.phase", "Running")
	began := time.Now()
	n.kubectl("delete", "pod", "-n", "demo", "deaf", "--wait=true", "--timeout=60s")
	if took := time.Since(began); took < 2*time.Second || took > 20*time.Second {
		n.t.Errorf("it took %v, want a bit more than its grace of 2 s", took)
	}
}

func (n *node) endsHangingProbe() {
	n.runPod("hung", "sleep 3600", `    livenessProbe: {exec: {command: [sleep, "3600"]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 2}`)
	n.becomes("hung", ".status.containerStatuses[0].restartCount", "1")
}

func (n *node) endsMemoryHog() {
	n.runPod("neighbour", "sleep 3600", "")
	n.becomes("neighbour", ".status.phase", "Running")
	n.runPod("hog", "tail /dev/zero", "    resources: {limits: {memory: 24Mi}}\n  restartPolicy: Never")
	n.becomes("hog", ".status.containerStatuses[0].state.terminated.reason", "OOMKilled")
	n.becomes("hog", ".status.containerStatuses[0].state.terminated.exitCode", "137")
	n.becomes("neighbour", ".status.containerStatuses[0].restartCount", "0")
}

// holdsForkBomb is bounded by the script too: 200 processes at most. A pod may have 64.
func (n *node) holdsForkBomb() {
	n.runPod("bomb", `i=0; while [ $i -lt 200 ]; do sleep 3600 & i=$((i+1)); done; echo all run; wait`, "  restartPolicy: Never")
	n.becomes("bomb", ".status.phase", "Failed")
	if out := n.kubectl("logs", "-n", "demo", "bomb"); !strings.Contains(out, "can't fork") || strings.Contains(out, "all run") {
		n.t.Errorf("it says %q", out)
	}
}

func (n *node) evictsForDisk() {
	n.runPod("greedy", "dd if=/dev/zero of=/scratch/file bs=1024 count=2048; sleep 3600", "")
	n.becomes("greedy", ".status.reason", "Evicted")
	n.becomes("greedy", ".status.message", `Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". `)
}

// followsRotation writes 1,200 numbered lines of 100 bytes at 20 KiB a file; a follower has to see each, in order.
func (n *node) followsRotation() {
	const lines = 1200
	n.runPod("chatty", fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo $i aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; i=$((i+1)); [ $((i %% 50)) -eq 0 ] && sleep 1; done; echo end`, lines), "  restartPolicy: Never")
	n.becomes("chatty", ".status.phase", "Running")
	out, err := n.try("logs", "-n", "demo", "chatty", "-f")
	if err != nil {
		n.t.Fatal(err)
	}
	next := 0
	for line := range strings.Lines(out) {
		number, _, _ := strings.Cut(line, " ")
		i, err := strconv.Atoi(number)
		if err != nil || i != next {
			break
		}
		next++
	}
	if next != lines {
		n.t.Errorf("the follower saw %d lines in order, want %d", next, lines)
	}
	files, err := filepath.Glob(n.Path("/var/log/pods") + "/demo_chatty_*/main/0.log*")
	if err != nil || len(files) != 3 {
		n.t.Errorf("log files %q, %v; want three", files, err)
	}
	if tail := n.kubectl("logs", "-n", "demo", "chatty", "--tail=1"); tail != "end\n" {
		n.t.Errorf("--tail=1 is %q", tail)
	}
	if part := n.kubectl("logs", "-n", "demo", "chatty", "--tail=3", "--limit-bytes=5"); len(part) != 5 {
		n.t.Errorf("--limit-bytes=5 is %q", part)
	}
	if old := n.kubectl("logs", "-n", "demo", "chatty", "--since=1s"); len(old) > 10000 {
		n.t.Errorf("--since=1s has %d bytes", len(old))
	}
}

// survivesShim kills the shim of a pod: its containers are lost, and made again.
func (n *node) survivesShim() {
	n.runPod("orphan", "sleep 3600", "")
	n.becomes("orphan", ".status.phase", "Running")
	before := n.kubectl("get", "pod", "-n", "demo", "orphan", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	for _, pid := range n.processes("containerd-shim") {
		n.inside("kill", "-9", pid)
	}
	n.eventually(90*time.Second, "the pod runs again", func() error {
		now, err := n.try("get", "pod", "-n", "demo", "orphan", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].ready}")
		if err == nil && (strings.HasPrefix(now, before) || !strings.HasSuffix(now, " true")) {
			err = errors.New(now)
		}
		return err
	})
	if out := n.kubectl("exec", "-n", "demo", "orphan", "--", "echo", "here"); out != "here\n" {
		n.t.Errorf("exec says %q", out)
	}
	n.once("orphan")
}

// once checks that the one pod that there is runs once.
func (n *node) once(name string) {
	n.t.Helper()
	n.eventually(60*time.Second, "one container runs, of "+name, func() error {
		running := 0
		for _, line := range n.containers("demo") {
			if strings.HasPrefix(line, "sandbox "+name+" ") && strings.HasSuffix(line, "SANDBOX_READY") || strings.HasPrefix(line, "container ") && strings.HasSuffix(line, "CONTAINER_RUNNING") {
				running++
			}
		}
		if running != 2 {
			return fmt.Errorf("%d sandboxes and containers run, want one of each", running)
		}
		return nil
	})
}

// survivesReboot ends all processes and empties /run, as a machine that restarts does.
func (n *node) survivesReboot() {
	n.runPod("settled", "sleep 3600", "")
	n.becomes("settled", ".status.phase", "Running")
	uid := n.kubectl("get", "pod", "-n", "demo", "settled", "-o", "jsonpath={.metadata.uid}")
	if err := n.server.process.Signal(syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	<-n.server.process.Done()
	n.inside("sh", "-c", `for p in /proc/[0-9]*; do pid=${p#/proc/}; [ $pid = 1 ] || [ $pid = $$ ] || case $(cat $p/comm 2>/dev/null) in containerd-shim*|sleep|pause) kill -9 $pid;; esac; done; true`)
	n.inside("sh", "-c", `sleep 0.5; for i in 1 2 3; do awk '$2 ~ "^/run/|^/var/lib/kubelet/pods|^/var/run/" {print $2}' /proc/mounts | sort -r | while read m; do umount -l "$m" 2>/dev/null; done; done; rm -rf /run/skiff/* /run/netns/*; true`)
	n.start()
	n.eventually(120*time.Second, "the same pod runs again", func() error {
		now, err := n.try("get", "pod", "-n", "demo", "settled", "-o", "jsonpath={.metadata.uid} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}")
		if err == nil && now != uid+" 1 true" {
			err = errors.New(now)
		}
		return err
	})
	n.once("settled")
}
