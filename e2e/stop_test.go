// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

// skiff runs the binary in the host.
func (n *node) skiff(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	return output(n.Command(ctx, n.binary, args...))
}

// awaitServerEnd waits for the server's own end, which has to be a good one.
func (n *node) awaitServerEnd() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	if err := n.server.process.Wait(ctx); err != nil {
		n.t.Errorf("end of the server: %v, want exit code 0", err)
	}
}

func (n *node) leftovers() testhost.Inventory {
	n.t.Helper()
	left, err := n.Leftovers(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return left
}

// What is running ends on request, with or without its pods; what was started can be removed without a trace.
func TestStopAndUninstall(t *testing.T) {
	n := newNode(t)
	n.kubectl("run", "client", "--image=busybox:stable", "--image-pull-policy=IfNotPresent", "--", "sleep", "3600")
	n.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")

	t.Run("stop --keep-pods ends the server only", func(t *testing.T) {
		n := n.with(t)
		out, err := n.skiff("stop", "--keep-pods")
		if err != nil || !strings.Contains(out, "ended process ") {
			t.Fatalf("skiff stop --keep-pods = %q, %v", out, err)
		}
		n.awaitServerEnd()
		if left := strings.Join(n.leftovers(), "\n"); !strings.Contains(left, "process sleep") || strings.Contains(left, "process skiff") {
			t.Errorf("after stop --keep-pods there is\n%s\nwant the pod's processes and no server", left)
		}
	})
	t.Run("stop without a server ends the pods", func(t *testing.T) {
		n := n.with(t)
		out, err := n.skiff("stop")
		if err != nil || !strings.Contains(out, "no server or agent runs\nended 1 pod(s)\n") {
			t.Fatalf("skiff stop = %q, %v", out, err)
		}
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("after stop there is\n%s", strings.Join(left, "\n"))
		}
		if out, err := n.skiff("stop"); err != nil {
			t.Errorf("a second stop = %q, %v", out, err)
		}
	})
	t.Run("a new start runs the pods again", func(t *testing.T) {
		n := n.with(t)
		n.start()
		n.eventually(60*time.Second, "the pod runs again", func() error {
			out, err := n.try("exec", "client", "--", "echo", "back")
			if err == nil && out != "back\n" {
				err = errors.New(out)
			}
			return err
		})
	})
	t.Run("stop ends the server and the pods", func(t *testing.T) {
		n := n.with(t)
		if out, err := n.skiff("stop"); err != nil || !strings.Contains(out, "ended process ") || !strings.Contains(out, "ended 1 pod(s)") {
			t.Fatalf("skiff stop = %q, %v", out, err)
		}
		n.awaitServerEnd()
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("after stop there is\n%s", strings.Join(left, "\n"))
		}
	})
	t.Run("uninstall asks", func(t *testing.T) {
		n := n.with(t)
		if out, err := n.skiff("uninstall"); err == nil {
			t.Errorf("uninstall without an answer went on: %q", out)
		}
		if _, err := os.Stat(n.Path("/var/lib/skiff/server/db")); err != nil {
			t.Error(err)
		}
	})
	t.Run("uninstall removes everything", func(t *testing.T) {
		n := n.with(t)
		n.start()
		n.kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
		out, err := n.skiff("uninstall", "--yes")
		if err != nil {
			t.Fatal(err)
		}
		t.Log(out)
		n.awaitServerEnd()
		if left := n.leftovers(); len(left) > 0 {
			t.Errorf("after uninstall there is\n%s", strings.Join(left, "\n"))
		}
		for _, dir := range []string{"/var/lib/skiff", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/run/skiff", "/etc/skiff", "/etc/cni"} {
			// The host has some of them as mount points, which are then empty.
			if entries, err := os.ReadDir(n.Path(dir)); len(entries) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("after uninstall, %s has %v (%v)", dir, entries, err)
			}
		}
		if out, err := n.skiff("uninstall", "--yes"); err != nil {
			t.Errorf("a second uninstall = %q, %v", out, err)
		}
	})
}

// A person sees what happens and how to go on, and nothing else; SIGTERM ends the server in good order.
func TestQuietStartAndStop(t *testing.T) {
	h := testhost.New(t, testhost.Options{Name: "alpha"})
	outPath, errPath := filepath.Join(t.TempDir(), "stdout"), filepath.Join(t.TempDir(), "stderr")
	cmd := serverCommand(t, h)
	cmd.Stdout, cmd.Stderr = create(t, outPath), create(t, errPath)
	process, err := h.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	said := func() string { return read(t, outPath) }
	n := &node{Host: h, t: t}
	n.eventually(time.Minute, "the server says that the node is Ready", func() error {
		if !strings.Contains(said(), "node alpha is Ready") {
			return errors.New(said() + read(t, errPath))
		}
		return nil
	})
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := process.Wait(ctx); err != nil {
		t.Errorf("after SIGTERM: %v, want exit code 0", err)
	}
	if log := read(t, errPath); log != "" {
		t.Errorf("a healthy start and stop logs\n%s", log)
	}
	out := said()
	for _, want := range []string{"data is open in /var/lib/skiff", "API serves at port 6443", "container runtime is ready", "export KUBECONFIG=/etc/skiff/skiff.yaml", "Stopping."} {
		if !strings.Contains(out, want) {
			t.Errorf("the server said\n%s\nwant %q among it", out, want)
		}
	}
	if lines := strings.Count(out, "\n"); lines > 24 {
		t.Errorf("the server said %d lines, want at most a screenful:\n%s", lines, out)
	}
}

// What keeps a server from starting is one line that says what to do, at once.
func TestCannotStart(t *testing.T) {
	h := testhost.New(t, testhost.Options{Name: "alpha"})
	failsAs := func(t *testing.T, program, want []string, flags ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		args := append(slices.Clone(program[1:]), "server", "--node-ip", h.IP().String(), "--cgroup-root", h.CgroupRoot())
		cmd := h.Command(ctx, program[0], append(args, flags...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Errorf("server %q: %v, want exit code 1", flags, err)
		}
		line := stderr.String()
		if strings.Count(line, "\n") != 1 {
			t.Errorf("server %q says\n%s\nwant one line", flags, line)
		}
		for _, w := range want {
			if !strings.Contains(line, w) {
				t.Errorf("server %q says %q, want %q in it", flags, line, w)
			}
		}
	}
	fails := func(t *testing.T, want []string, flags ...string) {
		t.Helper()
		failsAs(t, []string{binary(t)}, want, flags...)
	}
	for _, port := range []struct{ address, flag string }{
		{"0.0.0.0:6443", "--secure-port"}, {"0.0.0.0:10250", "--kubelet-port"}, {"0.0.0.0:10256", "--proxy-health-address"},
	} {
		t.Run(port.flag, func(t *testing.T) {
			listener, err := h.Listen(t.Context(), "tcp", port.address)
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			fails(t, []string{"address already in use", port.flag})
		})
	}
	for _, c := range []struct {
		name  string
		want  []string
		flags []string
	}{
		{"no data directory", []string{"make the data directory", "set --data-dir"}, []string{"--data-dir=/proc/none"}},
		{"no state directory", []string{"make the state directory", "set --state-dir"}, []string{"--state-dir=/proc/none"}},
		{"no place for the kubeconfig", []string{"write kubeconfig", "set --write-kubeconfig"}, []string{"--write-kubeconfig=/proc/none/x"}},
		{"a name that no Node can have", []string{`"A_b" cannot be the name of a Node`, "set --node-name"}, []string{"--node-name=A_b"}},
		{"somebody else's address", []string{"192.0.2.7 is not an address of this machine", h.IP().String()}, []string{"--node-ip=192.0.2.7"}},
		{"loopback", []string{"127.0.0.1 is not one by which", "--node-ip"}, []string{"--node-ip=127.0.0.1"}},
		{"no container runtime", []string{"call the container runtime", "no such file", "--container-runtime-endpoint"}, []string{"--container-runtime-endpoint=unix:///run/none.sock"}},
		{"not a container runtime", []string{"is not like unix:///", "--container-runtime-endpoint"}, []string{"--container-runtime-endpoint=run/none.sock"}},
	} {
		t.Run(c.name, func(t *testing.T) { fails(t, c.want, c.flags...) })
	}
	t.Run("a broken database", func(t *testing.T) {
		const db = "/var/lib/skiff/server/db"
		broken := filepath.Join(h.Path(db), "member", "snap", "db")
		if err := errors.Join(os.RemoveAll(h.Path(db)), os.MkdirAll(filepath.Dir(broken), 0o700), os.WriteFile(broken, []byte("nothing of sense"), 0o600)); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(h.Path(db))
		fails(t, []string{"open the database /var/lib/skiff/server/db/member/snap/db", "remove " + db})
	})
	t.Run("no iptables", func(t *testing.T) {
		covered(t, h, "/usr/sbin")
		fails(t, []string{"iptables", "install"})
	})
	t.Run("a kernel without netfilter modules", func(t *testing.T) {
		covered(t, h, "/usr/local/sbin")
		script := "#!/bin/sh\necho 'iptables-restore: line 4 failed: Extension statistic revision 0 not supported, missing kernel module?'; exit 1\n"
		if err := os.WriteFile(h.Path("/usr/local/sbin/iptables-restore"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		fails(t, []string{"Extension statistic", "missing kernel module", "modprobe"})
	})
	t.Run("no cgroups", func(t *testing.T) {
		covered(t, h, "/sys/fs/cgroup")
		fails(t, []string{"cgroup controller cpu", "mount cgroup v2"})
	})
	t.Run("root without capabilities", func(t *testing.T) {
		for _, name := range []string{"sys_admin", "net_admin"} {
			program := []string{"setpriv", "--bounding-set=-" + name, "--inh-caps=-" + name, binary(t)}
			failsAs(t, program, []string{"CAP_" + strings.ToUpper(name), "privileged"})
		}
	})
	t.Run("not root", func(t *testing.T) {
		cmd := h.Command(t.Context(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary(t), "server", "--node-ip", h.IP().String())
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "a node needs root (use sudo") {
			t.Errorf("without root: %v, %q", err, stderr.String())
		}
	})
	t.Run("a second server", func(t *testing.T) {
		process, err := h.Start(serverCommand(t, h))
		if err != nil {
			t.Fatal(err)
		}
		n := &node{Host: h, t: t}
		n.eventually(time.Minute, "the first server is there", func() error {
			conn, err := h.Dial(t.Context(), "tcp", "127.0.0.1:6443")
			if err == nil {
				err = conn.Close()
			}
			return err
		})
		fails(t, []string{"another server or agent runs", "skiff stop"})
		if err := process.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// covered lays an empty directory over another until the test ends.
func covered(t *testing.T, h *testhost.Host, dir string) {
	t.Helper()
	if _, err := h.Output(t.Context(), "mount", "-t", "tmpfs", "tmpfs", dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := h.Output(context.Background(), "umount", dir); err != nil {
			t.Error(err)
		}
	})
}

func serverCommand(t *testing.T, h *testhost.Host) *exec.Cmd {
	return h.Command(t.Context(), binary(t), "server", "--node-name", "alpha", "--node-ip", h.IP().String(), "--cgroup-root", h.CgroupRoot())
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
