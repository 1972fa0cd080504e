// SPDX-License-Identifier: Apache-2.0

package shutdown

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// The names of logind on the system bus.
const (
	loginService   = "org.freedesktop.login1"
	loginPath      = dbus.ObjectPath("/org/freedesktop/login1")
	loginInterface = "org.freedesktop.login1.Manager"
	// dropIn raises how long logind waits for anybody; it is upstream's file.
	dropIn = "/etc/systemd/logind.conf.d/99-kubelet.conf"
)

// Systemd is the logind of this machine.
type Systemd struct{}

// Inhibit takes a lock that delays shutdowns. If logind would not wait so long for anybody, it is told to.
func (Systemd) Inhibit(ctx context.Context, most time.Duration) (func(), error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	defer conn.Close()
	login := conn.Object(loginService, loginPath)
	if err := letWait(ctx, conn, login, most); err != nil {
		return nil, err
	}
	var fd dbus.UnixFD
	if err := login.CallWithContext(ctx, loginInterface+".Inhibit", 0, "shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay").Store(&fd); err != nil {
		return nil, fmt.Errorf("take an inhibitor lock: %w", err)
	}
	return func() { _ = unix.Close(int(fd)) }, nil
}

func letWait(ctx context.Context, conn *dbus.Conn, login dbus.BusObject, most time.Duration) error {
	waits, err := login.GetProperty(loginInterface + ".InhibitDelayMaxUSec")
	if err != nil {
		return fmt.Errorf("ask logind how long it waits: %w", err)
	}
	if micros, ok := waits.Value().(uint64); ok && time.Duration(micros)*time.Microsecond >= most {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		return fmt.Errorf("configure logind: %w", err)
	}
	text := fmt.Sprintf("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec=%.0f\n", most.Seconds())
	if err := os.WriteFile(dropIn, []byte(text), 0o644); err != nil {
		return fmt.Errorf("configure logind: %w", err)
	}
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	call := systemd.CallWithContext(ctx, "org.freedesktop.systemd1.Manager.KillUnit", 0, "systemd-logind.service", "all", int32(unix.SIGHUP))
	if call.Err != nil {
		return fmt.Errorf("have logind read its configuration: %w", call.Err)
	}
	return nil
}

// Watch listens to PrepareForShutdown.
func (Systemd) Watch(ctx context.Context) (<-chan bool, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(loginInterface), dbus.WithMatchMember("PrepareForShutdown"), dbus.WithMatchObjectPath(loginPath)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("subscribe to signals of logind: %w", err)
	}
	signals, events := make(chan *dbus.Signal, 10), make(chan bool, 1)
	conn.Signal(signals)
	go func() {
		defer close(events)
		defer conn.Close()
		for signal := range signals { // closed with the connection, which ends with ctx
			if len(signal.Body) == 0 {
				continue
			}
			if begins, ok := signal.Body[0].(bool); ok {
				select {
				case events <- begins:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return events, nil
}
