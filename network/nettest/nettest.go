// SPDX-License-Identifier: Apache-2.0

// Package nettest gives tests of packet handling a machine of their own.
//
// Main runs the whole test binary again in a new network and mount namespace, which has a loopback interface
// and nothing else: no way out, and nothing that a test does to links, routes or rules is seen by anybody.
// It does so once per variant of iptables that the machine has, nf_tables and legacy.
// Inside, NewNetns makes further namespaces (pods, other machines); sockets made within In stay there.
package nettest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// variantVariable is set inside, to the program that all iptables commands stand for.
const variantVariable = "SKIFF_NETTEST_IPTABLES"

// Main is for TestMain: os.Exit(nettest.Main(m)).
func Main(m *testing.M) int {
	variant := os.Getenv(variantVariable)
	if variant == "" {
		return runInside()
	}
	if err := prepare(variant); err != nil {
		fmt.Fprintln(os.Stderr, "prepare test namespaces:", err)
		return 1
	}
	return m.Run()
}

// runInside starts this binary again in new namespaces, once per variant; it dies with us.
func runInside() int {
	runtime.LockOSThread() // Pdeathsig is about the thread
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	ran := false
	for _, variant := range []string{"xtables-nft-multi", "xtables-legacy-multi"} {
		path, err := exec.LookPath(variant)
		if err != nil {
			continue
		}
		ran = true
		if code := runVariant(path, interrupts); code != 0 {
			fmt.Fprintln(os.Stderr, "with", variant)
			return code
		}
	}
	if !ran {
		fmt.Fprintln(os.Stderr, "xtables-nft-multi is not in $PATH (install the package iptables)")
		return 1
	}
	return 0
}

func runVariant(path string, interrupts <-chan os.Signal) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), variantVariable+"="+path)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "start test in new namespaces (must be root):", err)
		return 1
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-interrupts:
			cmd.Process.Signal(s)
		case <-ended:
			if code := cmd.ProcessState.ExitCode(); code >= 0 {
				return code
			}
			return 1 // a signal ended it
		}
	}
}

func prepare(variant string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("run", "/run", "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	const bin = "/run/bin"
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		if err := os.Symlink(variant, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	if err := os.Setenv("PATH", bin+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// NewNetns makes a network namespace with loopback up. It returns its path, and removes it with the test.
func NewNetns(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("/run/netns", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { RemoveNetns(path) })
	return path
}

// RemoveNetns removes a namespace; sockets that are still open keep it alive unseen.
func RemoveNetns(path string) {
	unix.Unmount(path, unix.MNT_DETACH)
	os.Remove(path)
}

// In runs f in a network namespace; "" is the test's own.
func In(t testing.TB, path string, f func() error) error {
	t.Helper()
	if path == "" {
		return f()
	}
	target, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		if err := netns.Set(target); err != nil {
			done <- err
			return
		}
		err = f()
		if netns.Set(home) == nil {
			runtime.UnlockOSThread() // else the thread ends with this goroutine
		}
		done <- err
	}()
	return <-done
}

// Connect joins two namespaces with a veth pair: name is the interface in each, addrs are in CIDR notation.
func Connect(t testing.TB, pathA, nameA, addrA, pathB, nameB, addrB string) {
	t.Helper()
	peer, err := netns.GetFromPath(pathB)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(In(t, pathA, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = nameA
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(peer)})
	}))
	up := func(name, cidr string) func() error {
		return func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			addr, err := netlink.ParseAddr(cidr)
			if err != nil {
				return err
			}
			addr.Flags |= unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
			return netlink.LinkSetUp(link)
		}
	}
	must(In(t, pathA, up(nameA, addrA)))
	must(In(t, pathB, up(nameB, addrB)))
}

// Serve answers every TCP connection and UDP packet to addr in a namespace with "<name> <peer address>".
func Serve(t testing.TB, path, network, addr, name string) {
	t.Helper()
	err := In(t, path, func() error {
		if network == "udp" {
			conn, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			go func() {
				buf := make([]byte, 1500)
				for {
					_, peer, err := conn.ReadFrom(buf)
					if err != nil {
						return
					}
					conn.WriteTo([]byte(name+" "+host(peer)+"\n"), peer)
				}
			}()
			return nil
		}
		listener, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "%s %s\n", name, host(conn.RemoteAddr()))
				conn.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatalf("serve %s %s: %v", network, addr, err)
	}
}

func host(addr net.Addr) string {
	h, _, _ := net.SplitHostPort(addr.String())
	return h
}

// Ask connects from a namespace to a server of Serve, and returns its name and the address it saw.
func Ask(t testing.TB, path, network, addr string) (name, peer string, err error) {
	t.Helper()
	err = In(t, path, func() error {
		dialer := net.Dialer{Timeout: 2 * time.Second}
		conn, err := dialer.DialContext(context.Background(), network, addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(2 * time.Second))
		if network == "udp" {
			if _, err := io.WriteString(conn, "?"); err != nil {
				return err
			}
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return err
		}
		_, err = fmt.Sscan(line, &name, &peer)
		return err
	})
	return name, peer, err
}

// Eventually waits until f returns nil.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Attach connects a namespace to the pod network that listens on the socket, as the plugin does, and returns its
// addresses.
func Attach(t testing.TB, socket, id, path string) []string {
	t.Helper()
	return AttachPod(t, socket, id, path, "", "")
}

// AttachPod is Attach for a pod that the runtime names.
func AttachPod(t testing.TB, socket, id, path, namespace, name string) []string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CNI_COMMAND=ADD\x00CNI_CONTAINERID=%s\x00CNI_NETNS=%s\x00CNI_IFNAME=eth0\x00", id, path)
	fmt.Fprintf(conn, "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s\x00\x00", namespace, name)
	fmt.Fprint(conn, `{"cniVersion":"1.0.0","name":"skiff"}`)
	conn.(*net.UnixConn).CloseWrite()
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) == 0 || answer[0] != 0 {
		t.Fatalf("attach %s: %q, %v", id, answer, err)
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal(answer[1:], &result); err != nil {
		t.Fatal(err)
	}
	var addrs []string
	for _, ip := range result.IPs {
		addr, _, _ := strings.Cut(ip.Address, "/")
		addrs = append(addrs, addr)
	}
	return addrs
}

// Detach ends what Attach began.
func Detach(t testing.TB, socket, id, path string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CNI_COMMAND=DEL\x00CNI_CONTAINERID=%s\x00CNI_NETNS=%s\x00CNI_IFNAME=eth0\x00\x00", id, path)
	fmt.Fprint(conn, `{"cniVersion":"1.0.0","name":"skiff"}`)
	conn.(*net.UnixConn).CloseWrite()
	if answer, err := io.ReadAll(conn); err != nil || len(answer) == 0 || answer[0] != 0 {
		t.Fatalf("detach %s: %q, %v", id, answer, err)
	}
}

// Dial opens one UDP flow to a server of Serve; each call of the function it returns sends a packet and returns the name
// in the answer.
func Dial(t testing.TB, path, addr string) func() (string, error) {
	t.Helper()
	var conn net.Conn
	err := In(t, path, func() (err error) {
		conn, err = net.Dial("udp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return func() (string, error) {
		conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := io.WriteString(conn, "?"); err != nil {
			return "", err
		}
		buf := make([]byte, 1500)
		n, err := conn.Read(buf)
		name, _, _ := strings.Cut(string(buf[:n]), " ")
		return name, err
	}
}
