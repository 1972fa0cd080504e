// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"time"

	"k8s.io/utils/clock"
)

// alignedClock lets timers end together. Each watch cache looks once a second whether a bookmark is due; with
// a cache for every resource that would wake an idle process a hundred times a second.
type alignedClock struct{ clock.RealClock }

// alignment is what timers of at least this length end at a multiple of.
const alignment = time.Second

func (c alignedClock) NewTimer(d time.Duration) clock.Timer {
	return alignedTimer{c.RealClock.NewTimer(align(c.Now(), d))}
}

type alignedTimer struct{ clock.Timer }

func (t alignedTimer) Reset(d time.Duration) bool { return t.Timer.Reset(align(time.Now(), d)) }

// align moves the end of a timer to the last multiple of alignment before it, or the first after it if that
// would leave less than half the time.
func align(now time.Time, d time.Duration) time.Duration {
	if d < alignment {
		return d
	}
	end := now.Add(d).Truncate(alignment)
	if end.Sub(now) < d/2 {
		end = end.Add(alignment)
	}
	return end.Sub(now)
}
