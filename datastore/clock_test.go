// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"testing"
	"testing/synctest"
	"time"
)

// Timers that are set at different moments for about the same time end at the same moment, again and again.
func TestAlignedTimersEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clock alignedClock
		time.Sleep(137 * time.Millisecond)
		first := clock.NewTimer(1010 * time.Millisecond)
		time.Sleep(200 * time.Millisecond)
		second := clock.NewTimer(1240 * time.Millisecond)
		for range 3 {
			a, b := <-first.C(), <-second.C()
			if !a.Equal(b) || a.Nanosecond() != 0 {
				t.Errorf("timers ended at %s and %s, want the same full second", a, b)
			}
			first.Reset(1200 * time.Millisecond)
			second.Reset(1050 * time.Millisecond)
		}
	})
}

func TestAlign(t *testing.T) {
	at := func(ms int) time.Time { return time.UnixMilli(int64(1000_000 + ms)) }
	for _, test := range []struct {
		now      int
		d, wants time.Duration
	}{
		{0, 10 * time.Millisecond, 10 * time.Millisecond}, // short ones are somebody's patience
		{0, 1200 * time.Millisecond, time.Second},
		{900, 1200 * time.Millisecond, 1100 * time.Millisecond},
		{600, time.Second, 1400 * time.Millisecond},
		{400, time.Second, 600 * time.Millisecond},
		{1, 15 * time.Second, 14999 * time.Millisecond},
	} {
		if got := align(at(test.now), test.d); got != test.wants {
			t.Errorf("align(%d ms, %s) = %s, want %s", test.now, test.d, got, test.wants)
		}
	}
}
