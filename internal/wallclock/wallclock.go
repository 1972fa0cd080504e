// SPDX-License-Identifier: Apache-2.0

// Package wallclock tells when the machine's clock was set, or went on after the machine had slept.
//
// Go's timers count the seconds that the machine is awake. Who waits for a time of day, or for a moment that an object of
// the API names, has to look at the clock again then: the moment may be past, or the timer much too early. The kernel
// says so by a timer (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET); nothing polls.
package wallclock
