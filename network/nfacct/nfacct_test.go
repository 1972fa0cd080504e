// SPDX-License-Identifier: Apache-2.0

package nfacct

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/network/nettest"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// A counter counts the packets of a rule that names it.
func TestCounter(t *testing.T) {
	const name = "test_packets"
	for range 2 { // the second time it is there
		if err := Ensure(name); err != nil {
			t.Fatal(err)
		}
	}
	rule := []string{"OUTPUT", "-d", "127.0.0.7", "-m", "nfacct", "--nfacct-name", name}
	iptables := func(action string) {
		t.Helper()
		if out, err := exec.Command("iptables", append([]string{"-w", "5", action}, rule...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	iptables("-A")
	conn, err := net.Dial("udp", "127.0.0.7:9")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("x"))
	if n, err := Packets(name); err != nil || n != 1 {
		t.Errorf("%d packets, %v; want 1", n, err)
	}
	if err := Delete(name); !errors.Is(err, unix.EBUSY) {
		t.Errorf("Delete of a counter in use: %v, want EBUSY", err)
	}
	iptables("-D")
	for range 2 { // the second time it is gone
		if err := Delete(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := Packets(name); !errors.Is(err, unix.ENOENT) {
		t.Errorf("Packets of no counter: %v, want ENOENT", err)
	}
}
