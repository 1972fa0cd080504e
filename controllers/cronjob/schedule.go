// SPDX-License-Identifier: Apache-2.0

package cronjob

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
)

// tooMany is how many missed times are worth a warning.
const tooMany = 100

// skew is added to each wait, so that a clock that is a little behind does not make the controller look too early.
const skew = 100 * time.Millisecond

// parse reads the schedule of a CronJob. A time zone that the schedule itself names comes before spec.timeZone.
func parse(cj *batchv1.CronJob) (schedule cron.Schedule, err error) {
	defer func() { // the parser panics on a time zone without a schedule
		if r := recover(); r != nil {
			err = fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	text := cj.Spec.Schedule
	if cj.Spec.TimeZone != nil && !namesTimeZone(cj) {
		if _, err := time.LoadLocation(*cj.Spec.TimeZone); err == nil {
			text = fmt.Sprintf("TZ=%s %s", *cj.Spec.TimeZone, text)
		}
	}
	return cron.ParseStandard(text)
}

// namesTimeZone tells whether the schedule itself names a time zone, which works but is not supported.
func namesTimeZone(cj *batchv1.CronJob) bool { return strings.Contains(cj.Spec.Schedule, "TZ") }

// due is what a schedule says about a moment.
type due struct {
	since  time.Time // times after this one count
	last   time.Time // the last of these times that is not in the future; the zero time if there is none, or none could be found
	missed int       // how many there are, roughly
}

// dueAt looks at the times since the last Job, or since the CronJob was created, but not at those before oldest.
func dueAt(cj *batchv1.CronJob, schedule cron.Schedule, oldest, now time.Time) (due, error) {
	d := due{since: cj.CreationTimestamp.Time}
	if cj.Status.LastScheduleTime != nil {
		d.since = cj.Status.LastScheduleTime.Time
	}
	if oldest.After(d.since) {
		d.since = oldest
	}
	first := schedule.Next(d.since)
	second := schedule.Next(first)
	switch {
	case now.Before(first):
		return d, nil
	case now.Before(second):
		d.last = first
		return d, nil
	}
	interval := second.Sub(first).Round(time.Second)
	if interval < time.Second { // a day that does not exist
		return d, errors.New("time difference between two schedules is less than 1 second")
	}
	// Jump close to now instead of listing all times since, who knows, 1970. Intervals may differ, so jump one short.
	intervals := now.Sub(first) / interval
	d.missed = int(intervals) + 1
	for t := schedule.Next(first.Add((intervals - 1) * interval)); !t.After(now); t = schedule.Next(t) {
		d.last = t
	}
	return d, nil
}

// wait is how long it is until the next time.
func wait(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) time.Duration {
	from := now
	switch d, err := dueAt(cj, schedule, time.Time{}, now); {
	case err != nil:
	case !d.last.IsZero():
		from = d.last
	case d.missed == 0:
		from = d.since
	}
	return max(schedule.Next(from).Add(skew).Sub(now), skew)
}

// oldestStart is the time before which it is too late to start a Job now; the zero time if it is never too late.
func oldestStart(cj *batchv1.CronJob, now time.Time) time.Time {
	if cj.Spec.StartingDeadlineSeconds == nil {
		return time.Time{}
	}
	return now.Add(-time.Duration(*cj.Spec.StartingDeadlineSeconds) * time.Second)
}
