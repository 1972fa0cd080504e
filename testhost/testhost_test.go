// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func output(t *testing.T, h *Host, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := h.Output(ctx, name, args...)
	if err != nil {
		t.Fatalf("run %s %v in %s: %v", name, args, h.Name(), err)
	}
	return strings.TrimSpace(out)
}

// Hosts of one cluster reach each other and nothing else, at once and not after a time-out.
func TestNetwork(t *testing.T) {
	hosts := NewCluster(t, 2).Hosts()
	for _, ip := range []net.IP{hosts[1].IP(), hosts[1].IPv6()} {
		l, err := hosts[1].Listen(t.Context(), "tcp", net.JoinHostPort(ip.String(), "80"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			if conn, err := l.Accept(); err == nil {
				io.WriteString(conn, "hello")
				conn.Close()
			}
		}()
		conn, err := hosts[0].Dial(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
			t.Errorf("read from %s = %q, %v", ip, got, err)
		}
		conn.Close()
	}
	for _, address := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} { // reserved for documentation
		if _, err := hosts[0].Dial(t.Context(), "tcp", address); !errors.Is(err, syscall.EHOSTUNREACH) &&
			!errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("dial %s = %v, want unreachable", address, err)
		}
	}
}

// What a host writes into the places where a node keeps things is not seen outside of it.
func TestPrivateFiles(t *testing.T) {
	h := New(t, Options{Name: "alone", PrivateDirs: []string{"/srv"}})
	if got := output(t, h, "hostname"); got != "alone" {
		t.Errorf("hostname = %q", got)
	}
	for _, dir := range []string{"/etc/cni/net.d", "/opt/cni/bin", "/run/skiff", "/var/lib/kubelet/pods", "/var/log/pods", "/srv"} {
		file := filepath.Join(dir, "testhost-was-here")
		output(t, h, "sh", "-c", "mkdir -p "+dir+" && touch "+file)
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("stat %s on the machine = %v, want that it does not exist", file, err)
		}
		if _, err := os.Stat(h.Path(file)); err != nil {
			t.Errorf("stat through Path: %v", err)
		}
	}
}

func TestSignals(t *testing.T) {
	h := New(t, Options{})
	p, err := h.Start(h.Command(t.Context(), "sh", "-c", `trap "exit 7" TERM; touch /run/ready; while :; do sleep 0.1; done`))
	if err != nil {
		t.Fatal(err)
	}
	awaitFile(t, h.Path("/run/ready"))
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("Wait = %v, want exit status 7", err)
	}
	if p, err = h.Start(h.Command(t.Context(), "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Kill, the process is still there: %v", err)
	}
}

const tellsTime = "TESTHOST_TELLS_TIME"

// TestMain lets the binary be a program that tells for each line what time it is, what time it is for what it starts, and how many
// seconds have passed.
func TestMain(m *testing.M) {
	if os.Getenv(tellsTime) == "" {
		os.Exit(m.Run())
	}
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		child, err := exec.Command("date", "+%s").Output()
		fmt.Println(time.Now().Unix(), strings.TrimSpace(string(child)), int(time.Since(began).Seconds()), err)
	}
}

// A process has the clock that it is given, from its start and whenever it is given another one. Nothing else changes for it.
func TestClock(t *testing.T) {
	h := New(t, Options{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(t.Context(), self)
	cmd.Env = append(os.Environ(), tellsTime+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(stdout)
	p, err := h.StartWithClock(cmd, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for i, ahead := range []time.Duration{time.Hour, -time.Hour, 0, 48 * time.Hour} {
		if i > 0 {
			if err := p.SetClock(ahead); err != nil {
				t.Fatal(err)
			}
		}
		before := time.Now()
		if _, err := io.WriteString(stdin, "\n"); err != nil {
			t.Fatal(err)
		}
		var own, child int64
		var passed int
		if _, err := fmt.Fscanf(answers, "%d %d %d <nil>\n", &own, &child, &passed); err != nil {
			t.Fatal(err)
		}
		about := func(unix int64, want time.Time) bool {
			return unix >= want.Unix() && unix <= want.Unix()+int64(time.Since(before).Seconds())+1
		}
		if !about(own, before.Add(ahead)) || !about(child, before) || passed > 60 {
			t.Errorf("%s ahead: at %d its time is %d, that of its child %d, and %d s have passed", ahead, before.Unix(), own, child, passed)
		}
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.StartWithClock(h.Command(t.Context(), "/no/such/program"), time.Hour); err == nil {
		t.Error("a program that does not exist has a clock")
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s never came to be", path)
}

// Leftovers finds all that a node is likely to forget.
func TestLeftovers(t *testing.T) {
	h := New(t, Options{})
	if left, err := h.Leftovers(t.Context()); err != nil || len(left) > 0 {
		t.Fatalf("Leftovers of a new host = %v, %v", left, err)
	}
	output(t, h, "ip", "link", "add", "pod0", "type", "bridge")
	output(t, h, "iptables", "-t", "nat", "-N", "KUBE-SVC-X")
	output(t, h, "sh", "-c", "mkdir -p /var/lib/kubelet/x && mount -t tmpfs tmpfs /var/lib/kubelet/x")
	output(t, h, "sh", "-c", "(sleep 1000 >/dev/null 2>&1 &)")
	if err := os.Mkdir(filepath.Join(h.cgroups.dirs[0], "pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	left, err := h.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"interface pod0", "iptables chain nat/KUBE-SVC-X", "mount /var/lib/kubelet/x", "process sleep"} {
		if !slices.Contains(left, want) {
			t.Errorf("Leftovers = %q, want %q among them", left, want)
		}
	}
	if !slices.ContainsFunc(left, func(s string) bool { return strings.HasPrefix(s, "cgroup ") }) {
		t.Errorf("Leftovers = %q, want a cgroup among them", left)
	}
}

// A closed host has left nothing: no process, mount, namespace, cgroup or file.
func TestClose(t *testing.T) {
	h := New(t, Options{})
	p, err := h.Start(h.Command(t.Context(), "sh", "-c", "mount -t tmpfs tmpfs /var/lib/kubelet; sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	joined := filepath.Join(h.cgroups.dirs[0], "pod", "cgroup.procs")
	if err := os.Mkdir(filepath.Dir(joined), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(joined, []byte(strconv.Itoa(p.PID())), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	p.Wait(t.Context())
	for _, path := range append(h.cgroups.dirs, h.dir, filepath.Join("/proc", strconv.Itoa(p.PID())), h.Path("/")) {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("stat %s after Close = %v, want that it does not exist", path, err)
		}
	}
}
