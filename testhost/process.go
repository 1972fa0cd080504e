// SPDX-License-Identifier: Apache-2.0

package testhost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a long-running process inside a host.
type Process struct {
	cmd   *exec.Cmd
	pid   int
	clock int64 // where in its memory it is written how many seconds its clock is ahead; of StartWithClock
	done  chan struct{}
	err   error // valid when done is closed
}

// Start starts a prepared Command and returns when the process exists. It is killed at the latest when the
// host closes or ctx, which the command was made with, ends.
func (h *Host) Start(cmd *exec.Cmd) (*Process, error) {
	// Grandchildren that have the pipes open, such as shims, must not keep Wait from returning.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	var err error
	if p.pid, err = p.find(); err != nil {
		cmd.Process.Kill()
		<-p.done
		return nil, fmt.Errorf("start %s: %w", strings.Join(cmd.Args, " "), err)
	}
	return p, nil
}

// find waits until nsenter has forked and returns the ID of its child.
func (p *Process) find() (int, error) {
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", p.cmd.Process.Pid)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		select {
		case <-p.done:
			return 0, fmt.Errorf("it ended at once: %w", p.err)
		default:
		}
		list, err := os.ReadFile(children)
		if err != nil {
			continue // it has just ended
		}
		if first := strings.Fields(string(list)); len(first) > 0 {
			return strconv.Atoi(first[0])
		}
	}
	return 0, fmt.Errorf("nsenter has no child")
}

// PID is the process's ID outside of the host.
func (p *Process) PID() int { return p.pid }

// Signal sends a signal to the process itself.
func (p *Process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return syscall.Kill(p.pid, sig)
	}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns what exec.Cmd's Wait says.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Kill is kill -9 and returns when the process is gone. What it started lives on.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
