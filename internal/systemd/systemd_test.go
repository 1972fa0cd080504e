// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// listen is systemd's end of the socket.
func listen(t *testing.T) (hears func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		message := make([]byte, 100)
		n, err := conn.Read(message)
		if err != nil {
			t.Fatal(err)
		}
		return string(message[:n])
	}
}

// systemd hears that the process is ready, and then again and again that it is alive.
func TestSystemdHears(t *testing.T) {
	hears := listen(t)
	t.Setenv("WATCHDOG_USEC", "1200000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	if err := Ready(); err != nil {
		t.Fatal(err)
	}
	if got := hears(); got != "READY=1" {
		t.Errorf("heard %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- Watch(ctx) }()
	for range 3 {
		if got := hears(); got != "WATCHDOG=1" {
			t.Errorf("heard %q", got)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch: %v", err)
	}
}

// Without a watchdog, or with that of another process, nothing is said; one that nobody could satisfy is refused.
func TestNoWatchdog(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	for _, c := range []struct{ micros, pid, want string }{
		{"", "", ""}, {"5000000", "1", ""}, {"1000000", "", "too small"}, {"often", "", "WATCHDOG_USEC"},
	} {
		t.Setenv("WATCHDOG_USEC", c.micros)
		t.Setenv("WATCHDOG_PID", c.pid)
		err := Watch(t.Context())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := Ready(); err != nil {
		t.Errorf("Ready: %v", err)
	}
}
