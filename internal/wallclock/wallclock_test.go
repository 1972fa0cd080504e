// SPDX-License-Identifier: Apache-2.0

package wallclock

import (
	"testing"
	"time"
	"unsafe"
)

// later is a time after t by the clock, and another one after it by what has passed.
func later(t time.Time, clock, passed time.Duration) time.Time {
	t = t.Add(clock)
	(*struct {
		wall uint64
		ext  time.Duration // since the process began
	})(unsafe.Pointer(&t)).ext += passed - clock
	return t
}

func TestReached(t *testing.T) {
	now := time.Now()
	at := now.Add(10 * time.Minute)
	for _, tc := range []struct {
		clock, passed time.Duration
		want          bool
	}{
		{9 * time.Minute, 9 * time.Minute, false},
		{10 * time.Minute, 10 * time.Minute, true},
		{time.Hour + 9*time.Minute, 9 * time.Minute, true},     // the clock was set forward, or the machine has slept
		{10*time.Minute - time.Hour, 10 * time.Minute, true},   // the clock was set back
		{9*time.Minute - 24*time.Hour, 9 * time.Minute, false}, // likewise
	} {
		then := later(now, tc.clock, tc.passed)
		if got := Reached(at, then); got != tc.want || then.Sub(now) != tc.passed {
			t.Errorf("after %s, when the clock is %s later: %v, want %v (%s)", tc.passed, tc.clock, got, tc.want, then.Sub(now))
		}
	}
}
