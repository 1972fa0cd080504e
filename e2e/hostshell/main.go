// SPDX-License-Identifier: Apache-2.0

// Command hostshell makes a test host and runs a command in it, for trying things by hand:
//
//	go run ./e2e/hostshell bash -c 'bin/skiff server & sleep 10; bin/skiff kubectl get nodes'
//
// The host goes with all that runs in it when the command ends.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/skiff-k8s/skiff/testhost"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: hostshell COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := &program{}
	defer t.end()
	host := testhost.New(t, testhost.Options{})
	cmd := host.Command(ctx, os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "CGROUP_ROOT="+host.CgroupRoot(), "HOST_IP="+host.IP().String())
	if err := cmd.Run(); err != nil {
		t.Logf("%v", err)
		t.failed = true
	}
}

// program is the testing.T of a program.
type program struct {
	cleanups []func()
	failed   bool
}

func (p *program) Helper()          {}
func (p *program) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }
func (p *program) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "hostshell: "+format+"\n", args...)
}

func (p *program) Fatalf(format string, args ...any) {
	p.Logf(format, args...)
	p.failed = true
	p.end()
}

// end takes away what was made, last first, and ends the program.
func (p *program) end() {
	for i := len(p.cleanups) - 1; i >= 0; i-- {
		p.cleanups[i]()
	}
	if p.failed {
		os.Exit(1)
	}
	os.Exit(0)
}
