// SPDX-License-Identifier: Apache-2.0

// Package testhost makes hosts to run a node on, inside one machine, and takes them away again.
//
// A node changes routes, iptables, mounts and cgroups, so no test runs one on the machine itself. A
// [Host] has network, mount, PID, UTS and IPC namespaces of its own:
//
//   - Its only link is a veth to a bridge in a network namespace that the hosts of one [Cluster]
//     share. The default route ends there as "unreachable": a host has no way out of the machine,
//     and an unknown destination fails at once instead of hanging.
//   - /etc, /opt and /var are overlays, /run is a tmpfs, and the places where a node keeps much or
//     mounts things (/var/lib/skiff, /var/lib/kubelet, ...) are directories of the host's own.
//     Everything else is the machine's.
//   - One cgroup below the root of each hierarchy is meant for its pods ([Host.CgroupRoot]).
//
// Process 1 of a host is a shell that reads from a pipe. When the pipe closes, be it by [Host.Close]
// or because the test ended in any way, the kernel ends every process in the host, and mounts,
// links and addresses go with them.
//
// It needs root, and nsenter and setpriv (util-linux), bash and mount: on Debian all are essential packages.
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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// T is the part of testing.TB that is needed, so that a benchmark program can make test hosts too.
type T interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// Options say what a host has besides the defaults.
type Options struct {
	// Name is the host name; by default host-1, host-2, ...
	Name string
	// PrivateDirs are further directories that the host has for itself, on disk.
	PrivateDirs []string
}

// privateDirs lie on a real file system rather than in the overlay over /var, because containers'
// own overlays cannot lie on an overlay.
var privateDirs = []string{
	"/var/lib/skiff", "/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log",
}

// Host is one test host.
type Host struct {
	name    string
	dir     string // everything it keeps on disk
	link    link
	pause   *namespaceHolder
	cgroups cgroups
	closed  atomic.Bool

	baseline Inventory // what was there when the host was new
}

// New makes a host that is alone on its network. It goes when the test ends.
func New(t T, opts Options) *Host {
	t.Helper()
	return NewCluster(t, 0).Add(t, opts)
}

// Name is the host name inside.
func (h *Host) Name() string { return h.name }

// IP is the host's IPv4 address, reachable from the other hosts of its cluster and from nowhere else.
func (h *Host) IP() net.IP { return h.link.ipv4.IP }

// IPv6 is the host's IPv6 address.
func (h *Host) IPv6() net.IP { return h.link.ipv6.IP }

// CgroupRoot is the cgroup that is the host's own in every hierarchy, as a path below their roots.
func (h *Host) CgroupRoot() string { return h.cgroups.path }

// Path is where a file of the host is found from outside of it.
func (h *Host) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(h.pause.pid()), "root", inside)
}

// Command is exec.CommandContext for a process inside the host. A kill of the returned command
// kills the process inside; for other signals, see Start.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", slices.Concat(h.enter(), []string{name}, args)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C at the terminal is for the test, which then cleans up
	return cmd
}

// enter is what nsenter is told before the command.
func (h *Host) enter() []string {
	return []string{
		"--target", strconv.Itoa(h.pause.pid()), "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--",
		"setpriv", "--pdeathsig=KILL", "--",
	}
}

// Output runs a command inside the host and returns what it printed on standard output. The error
// holds what it printed on standard error.
func (h *Host) Output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := h.Command(ctx, name, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// Do calls f on a thread that is in the host's network namespace. Sockets that f opens itself,
// without further goroutines, belong to the host and stay usable afterwards.
func (h *Host) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		done <- h.pause.inNetwork(f)
	}()
	return <-done
}

// Dial connects from inside the host. The address is a numeric one, or for "unix" a path in the host.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	if strings.HasPrefix(network, "unix") {
		return d.DialContext(ctx, network, h.Path(address))
	}
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens inside the host, at a numeric address.
func (h *Host) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = (&net.ListenConfig{}).Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenBeside listens in the network namespace of the host's only process of that name: of a pod, for example, for which
// there is no image with the program that it is to be.
func (h *Host) ListenBeside(process, network, address string) (net.Listener, error) {
	names, err := filepath.Glob(h.Path("/proc") + "/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	for _, path := range names {
		if comm, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(comm)) == process {
			return listenIn(filepath.Join(filepath.Dir(path), "ns", "net"), network, address)
		}
	}
	return nil, fmt.Errorf("%s has no process %s", h.name, process)
}

// listenIn listens in another network namespace. The thread that goes there is not used again.
func listenIn(namespace, network, address string) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var ns *os.File
		if ns, err = os.Open(namespace); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen(network, address)
		}
	}()
	<-done
	return l, err
}

// Close ends every process of the host and removes what it had. It may be called more than once.
func (h *Host) Close() error {
	if h.closed.Swap(true) {
		return nil
	}
	return errors.Join(h.pause.close(), h.cgroups.remove(), os.RemoveAll(h.dir))
}

// setUp is what process 1 does before it waits for the end. It makes the mounts.
const setUp = `
set -e
exec 2>&1
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sys /run/scratch
mount --rbind /sys/fs/cgroup /run/sys
mount -t sysfs sysfs /sys
mount --move /run/sys /sys/fs/cgroup
rmdir /run/sys
for d in etc opt var; do
	mkdir -p /run/scratch/$d/upper /run/scratch/$d/work
	mount -t overlay -o lowerdir=/$d,upperdir=/run/scratch/$d/upper,workdir=/run/scratch/$d/work overlay /$d
done
for d in $PRIVATE_DIRS; do
	mkdir -p "$d" "$HOST_DIR$d"
	mount --bind "$HOST_DIR$d" "$d"
done
echo "$HOST_NAME" >/proc/sys/kernel/hostname
echo "$HOST_NAME" >/etc/hostname
rm -f /etc/resolv.conf
echo "# A test host has no name server." >/etc/resolv.conf
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost\n%s %s\n' "$HOST_IP" "$HOST_NAME" >/etc/hosts
mount --make-rshared /
echo ready
`

func newHost(name, dir string, l link, extraDirs []string) (h *Host, err error) {
	h = &Host{name: name, dir: dir, link: l}
	if h.cgroups, err = makeCgroups(); err != nil {
		return nil, err
	}
	h.pause, err = holdNamespaces(setUp,
		syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWPID|syscall.CLONE_NEWUTS|syscall.CLONE_NEWIPC,
		"HOST_NAME="+name, "HOST_DIR="+dir, "HOST_IP="+l.ipv4.IP.String(),
		"PRIVATE_DIRS="+strings.Join(append(append([]string(nil), privateDirs...), extraDirs...), " "))
	if err != nil {
		return nil, errors.Join(err, h.cgroups.remove())
	}
	return h, nil
}

// namespaceHolder is a process that lives in new namespaces and does nothing.
type namespaceHolder struct {
	cmd  *exec.Cmd
	stop io.Closer // its standard input; it ends when this closes
	net  *os.File  // its network namespace
}

// holdNamespaces starts one. The script must print "ready" when it is done.
func holdNamespaces(script string, namespaces uintptr, env ...string) (*namespaceHolder, error) {
	// bash and not a sleep: process 1 of a PID namespace must collect its orphans.
	cmd := exec.Command("bash", "-c", script+"\nwhile read -r; do :; done")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make namespaces (are you root?): %w", err)
	}
	n := &namespaceHolder{cmd: cmd, stop: stdin}
	if err := awaitReady(stdout); err != nil {
		return nil, errors.Join(fmt.Errorf("set up a test host: %w", err), n.close())
	}
	n.net, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid()))
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

func awaitReady(stdout io.Reader) error {
	var said []string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return nil
		}
		said = append(said, lines.Text())
	}
	return errors.New(strings.Join(said, "; "))
}

func (n *namespaceHolder) pid() int { return n.cmd.Process.Pid }

// inNetwork calls f with the calling thread moved into the network namespace, where it stays.
func (n *namespaceHolder) inNetwork(f func() error) error {
	if err := unix.Setns(int(n.net.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace of a test host: %w", err)
	}
	return f()
}

// close ends the process, and the kernel everything that shares its PID namespace.
func (n *namespaceHolder) close() error {
	n.stop.Close()
	n.cmd.Process.Kill()
	n.cmd.Wait() // "signal: killed" is what was asked for
	if n.net != nil {
		return n.net.Close()
	}
	return nil
}
