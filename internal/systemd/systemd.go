// SPDX-License-Identifier: Apache-2.0

// Package systemd tells systemd, if it is what started this process, that the process is ready and that it is alive: for units
// with Type=notify and WatchdogSec=. Where nothing of the kind is asked for it does nothing.
// Reference: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
package systemd

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"k8s.io/klog/v2"
)

// least is a watchdog's time that can be kept; upstream's kubelet refuses less, too.
const least = time.Second

// Ready says that what the process is for can be used.
func Ready() error { return notify("READY=1") }

// Watch says, until ctx ends, that the process is alive, twice in the time in which systemd wants to hear it. It ends at once if
// systemd does not want to.
func Watch(ctx context.Context) error {
	within, err := watchdog()
	if err != nil || within == 0 {
		return err
	}
	tick := time.NewTicker(within / 2)
	defer tick.Stop()
	for {
		if err := notify("WATCHDOG=1"); err != nil {
			klog.FromContext(ctx).Error(err, "Telling systemd that this process is alive")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watchdog is how often systemd wants to hear from this process; 0: it does not.
func watchdog() (time.Duration, error) {
	text := os.Getenv("WATCHDOG_USEC")
	if pid := os.Getenv("WATCHDOG_PID"); text == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	micros, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("configure watchdog: WATCHDOG_USEC: %w", err)
	}
	within := time.Duration(micros) * time.Microsecond
	if within <= least {
		return 0, fmt.Errorf("configure watchdog timeout too small: %v (set WatchdogSec= to more than %v)", within, least)
	}
	return within, nil
}

// notify sends a message to who started this process, if that wants any.
func notify(message string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("reach systemd: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(message)); err != nil {
		return fmt.Errorf("send %s to systemd: %w", message, err)
	}
	return nil
}
