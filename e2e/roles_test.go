// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/skiff-k8s/skiff/testhost"
)

// beVariable makes this test program, called on a test host, something else that a node has to do with.
const beVariable = "E2E_BE"

var roles = map[string]func(context.Context) error{
	"containerd":    runOtherRuntime,
	"csi driver":    runCSIDriver,
	"device plugin": runDevicePlugin,
	"DRA driver":    runDRADriver,
	"hung mount":    runHungMount,
	"lock":          runLock,
	"logind":        runLogind,
}

func TestMain(m *testing.M) {
	role, is := roles[os.Getenv(beVariable)]
	if !is {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := role(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// play starts this program on the host in a role. It ends with the whole test at the latest.
func (n *node) play(role string) *testhost.Process {
	n.t.Helper()
	program, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := n.Command(n.server.ctx, program)
	cmd.Env = append(os.Environ(), beVariable+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	process, err := n.Start(cmd)
	if err != nil {
		n.t.Fatal(err)
	}
	return process
}
