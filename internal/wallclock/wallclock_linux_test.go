// SPDX-License-Identifier: Apache-2.0

package wallclock

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// As long as nobody sets the clock, nothing happens; the end of the context is the end.
func TestFollowEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Follow(ctx, func() { t.Error("the clock jumped") }) }()
	select {
	case err := <-done:
		t.Fatalf("Follow ended: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Follow = %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("Follow did not end with its context")
	}
}

// Each time that the kernel ends the timer is a jump, after which the timer is set again; any other error is one.
func TestJumps(t *testing.T) {
	jumps, armed := 0, 0
	broken := errors.New("broken")
	answers := []error{
		&os.PathError{Op: "read", Path: "timerfd", Err: unix.ECANCELED}, &os.PathError{Op: "read", Path: "timerfd", Err: unix.ECANCELED}, broken,
	}
	arm := func() error {
		if armed++; armed == 2 {
			return unix.ECANCELED // it was set while nobody looked
		}
		return nil
	}
	err := follow(t.Context(), func() { jumps++ }, arm, func([]byte) (int, error) { return 0, answers[armed-1] })
	if !errors.Is(err, broken) || jumps != 3 || armed != 3 {
		t.Errorf("follow = %v after %d jumps, armed %d times; want the error after 3 and 3", err, jumps, armed)
	}
}
