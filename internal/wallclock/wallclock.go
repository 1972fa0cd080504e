// SPDX-License-Identifier: Apache-2.0

// Package wallclock is for who has to do with the machine's clock. It tells when that was set, or went on after the machine had slept.
//
// Go's timers count the seconds that the machine is awake. Who waits for a time of day, or for a moment that an object of
// the API names, has to look at the clock again then: the moment may be past, or the timer much too early. The kernel
// says so by a timer (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET); nothing polls.
package wallclock

import "time"

// Reached tells whether it is a moment that was reckoned from time.Now, or later: by the clock, or by the time that has
// passed. A clock that was set back since does not put it off, nor does a machine's sleep, in which no time passes for Go.
func Reached(at, now time.Time) bool { return !now.Before(at) || !now.Round(0).Before(at.Round(0)) }
