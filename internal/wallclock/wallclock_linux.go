// SPDX-License-Identifier: Apache-2.0

package wallclock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// Follow calls jumped whenever the clock was set, until ctx ends.
func Follow(ctx context.Context, jumped func()) error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("watch the clock: %w", err)
	}
	timer := os.NewFile(uintptr(fd), "timerfd")
	defer timer.Close()
	defer context.AfterFunc(ctx, func() { _ = timer.Close() })() // ends the read below
	return follow(ctx, jumped, func() error { return arm(fd) }, timer.Read)
}

// arm sets the timer to a time that never comes. What comes is the clock's being set, which ends it.
func arm(fd int) error {
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32}}
	return unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil)
}

func follow(ctx context.Context, jumped func(), arm func() error, read func([]byte) (int, error)) error {
	var expirations [8]byte
	for {
		switch err := arm(); {
		case errors.Is(err, unix.ECANCELED): // since the last time; it is set all the same
			jumped()
		case err != nil:
			return ended(ctx, err)
		}
		switch _, err := read(expirations[:]); {
		case err == nil, errors.Is(err, unix.ECANCELED):
			jumped()
		default:
			return ended(ctx, err)
		}
	}
}

// ended is no error if it is the end of ctx that closed the timer.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the clock: %w", err)
}
