// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"
)

const (
	loginPath      = dbus.ObjectPath("/org/freedesktop/login1")
	loginInterface = "org.freedesktop.login1.Manager"
	loginDir       = "/run/logind" // where the test and logind meet: files begin, call-off, released, delay
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>
`

// logind is as much of systemd's as delays shutdowns: inhibitors, each a pipe whose other end somebody holds, and how long
// it waits for them, read anew when systemd is asked to tell it so.
type logind struct{ properties *prop.Properties }

// runLogind runs a bus, and logind on it.
func runLogind(ctx context.Context) error {
	for _, dir := range []string{"/run/dbus", loginDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/run/dbus/bus.conf", []byte(busConfig), 0o644); err != nil {
		return err
	}
	bus := exec.CommandContext(ctx, "dbus-daemon", "--config-file=/run/dbus/bus.conf", "--nofork", "--nopidfile", "--nosyslog")
	bus.Stderr = os.Stderr
	bus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := bus.Start(); err != nil {
		return fmt.Errorf("start dbus-daemon: %w", err)
	}
	defer func() { _ = bus.Wait() }()
	var conn *dbus.Conn
	var err error
	for range 100 {
		if conn, err = dbus.ConnectSystemBus(); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	l := &logind{}
	l.properties, err = prop.Export(conn, loginPath, prop.Map{loginInterface: {"InhibitDelayMaxUSec": {Value: uint64(5_000_000), Emit: prop.EmitTrue}}})
	if err != nil {
		return err
	}
	if err := errors.Join(conn.Export(l, loginPath, loginInterface), conn.Export(systemd{l}, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")); err != nil {
		return err
	}
	for _, name := range []string{"org.freedesktop.login1", "org.freedesktop.systemd1"} {
		if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		for file, begins := range map[string]bool{"begin": true, "call-off": false} {
			if os.Remove(filepath.Join(loginDir, file)) == nil {
				if err := conn.Emit(loginPath, loginInterface+".PrepareForShutdown", begins); err != nil {
					return err
				}
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// Inhibit gives the writing end of a pipe away; when nobody holds it any more, the shutdown may go on.
func (l *logind) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" {
		return 0, dbus.MakeFailedError(fmt.Errorf("%s inhibits %s by %s: %s", who, what, mode, why))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	_ = os.Remove(filepath.Join(loginDir, "released"))
	go func() {
		// The message with our copy of the descriptor is sent after this returns.
		time.Sleep(2 * time.Second)
		_ = w.Close()
		_, _ = r.Read(make([]byte, 1))
		_ = os.WriteFile(filepath.Join(loginDir, "released"), nil, 0o644)
		_ = r.Close()
	}()
	return dbus.UnixFD(w.Fd()), nil
}

// systemd passes signals on to units; there is one.
type systemd struct{ *logind }

// KillUnit has logind read its configuration again.
func (s systemd) KillUnit(unit, _ string, signal int32) *dbus.Error {
	if unit != "systemd-logind.service" || signal != 1 {
		return dbus.MakeFailedError(fmt.Errorf("unit %s does not take signal %d", unit, signal))
	}
	raw, err := os.ReadFile("/etc/systemd/logind.conf.d/99-kubelet.conf")
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	found := regexp.MustCompile(`(?m)^InhibitDelayMaxSec=(\d+)$`).FindSubmatch(raw)
	if found == nil {
		return dbus.MakeFailedError(fmt.Errorf("no delay in %q", raw))
	}
	delay, err := time.ParseDuration(string(found[1]) + "s")
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	s.properties.SetMust(loginInterface, "InhibitDelayMaxUSec", uint64(delay.Microseconds()))
	if err := os.WriteFile(filepath.Join(loginDir, "delay"), []byte(delay.String()), 0o644); err != nil {
		return dbus.MakeFailedError(err)
	}
	return nil
}

const shutdownPod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  terminationGracePeriodSeconds: 15
  %[3]s
  restartPolicy: Never
  volumes: [{name: log, hostPath: {path: /var/lib/order, type: DirectoryOrCreate}}]
  containers:
  - name: main
    image: busybox:stable
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "trap 'sleep 3; echo %[1]s >>/order/log; exit 0' TERM; while true; do sleep 0.2; done"]
    volumeMounts: [{name: log, mountPath: /order}]
`

// When the machine is shut down, logind waits until ordinary pods and then critical ones have ended in good order.
func TestGracefulShutdown(t *testing.T) {
	config := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(config, []byte("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nshutdownGracePeriod: 60s\nshutdownGracePeriodCriticalPods: 20s\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newHost(t)
	login := n.play("logind")
	n.eventually(30*time.Second, "the bus is there", func() error { _, err := os.Stat(n.Path("/run/dbus/system_bus_socket")); return err })
	n.flags = []string{"--kubelet-config", config}
	n.start()
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=60s")
	n.kubectl("create", "namespace", "demo")
	n.eventually(30*time.Second, "logind was told to wait for as long as pods may need", func() error {
		raw, err := os.ReadFile(n.Path(loginDir + "/delay"))
		if err == nil && string(raw) != "1m0s" {
			err = fmt.Errorf("it waits %s", raw)
		}
		return err
	})
	n.apply(fmt.Sprintf(shutdownPod, "ordinary", "demo", "") + "---" + fmt.Sprintf(shutdownPod, "critical", "kube-system", "priorityClassName: system-node-critical"))
	n.becomes("ordinary", ".status.phase", "Running")
	n.kubectl("wait", "-n", "kube-system", "--for=jsonpath={.status.phase}=Running", "pod/critical", "--timeout=60s")
	released := func() bool { _, err := os.Stat(n.Path(loginDir + "/released")); return err == nil }
	if released() {
		t.Fatal("nobody inhibits a shutdown")
	}
	say := func(file string) {
		t.Helper()
		if err := os.WriteFile(n.Path(filepath.Join(loginDir, file)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	say("begin")
	n.kubectl("wait", "--for=condition=Ready=False", "node/alpha", "--timeout=30s")
	if message := n.kubectl("get", "node", "alpha", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].message}`); !strings.Contains(message, "node is shutting down") {
		t.Errorf("the node says %q", message)
	}
	n.eventually(60*time.Second, "the shutdown may go on", func() error {
		if !released() {
			return errors.New("it may not")
		}
		return nil
	})
	if order, err := os.ReadFile(n.Path("/var/lib/order/log")); err != nil || string(order) != "ordinary\ncritical\n" {
		t.Errorf("when it may go on, there ended %q, %v", order, err)
	}
	for name, namespace := range map[string]string{"ordinary": "demo", "critical": "kube-system"} {
		n.kubectl("wait", "-n", namespace, "--for=jsonpath={.status.reason}=Terminated", "pod/"+name, "--timeout=30s")
		if got := n.kubectl("get", "pod", "-n", namespace, name, "-o", "jsonpath={.status.phase} {.status.message}"); got != "Failed Pod was terminated in response to imminent node shutdown." && got != "Succeeded Pod was terminated in response to imminent node shutdown." {
			t.Errorf("pod %s: %s", name, got)
		}
	}
	n.apply(strings.Replace(fmt.Sprintf(shutdownPod, "late", "demo", "nodeName: alpha"), "  volumes:", "  tolerations: [{operator: Exists}]\n  volumes:", 1))
	n.becomes("late", ".status.reason", "NodeShutdown")

	n.eventually(30*time.Second, "an event of the node tells of the shutdown", func() error {
		out, err := n.try("get", "events", "-A", "--field-selector=reason=Shutdown,involvedObject.name=alpha", "-o", "jsonpath={.items[*].message}")
		if err == nil && out != "Shutdown manager detected shutdown event" {
			err = fmt.Errorf("there is %q", out)
		}
		return err
	})

	// It was called off: the node takes pods again, and the next shutdown waits too.
	say("call-off")
	n.kubectl("wait", "--for=condition=Ready", "node/alpha", "--timeout=30s")
	n.eventually(30*time.Second, "the next shutdown is inhibited", func() error {
		if released() {
			return errors.New("it is not")
		}
		return nil
	})
	n.runPod("again", "sleep 3600", "")
	n.becomes("again", ".status.phase", "Running")

	// A logind that restarts is found again.
	n.kill(login)
	n.inside("rm", "-f", "/run/dbus/system_bus_socket", loginDir+"/delay")
	n.play("logind")
	n.eventually(30*time.Second, "the new logind was told how long to wait", func() error { _, err := os.Stat(n.Path(loginDir + "/delay")); return err })
	say("begin")
	n.becomes("again", ".status.reason", "Terminated")
}
