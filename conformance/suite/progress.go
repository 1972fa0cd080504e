// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"time"

	"github.com/skiff-k8s/skiff/conformance/results"
)

// progress says after each test how far the run is.
type progress struct {
	total, done, failed int
	start               time.Time
	say                 func(format string, args ...any)
}

func newProgress(total int, say func(format string, args ...any)) *progress {
	return &progress{total: total, start: time.Now(), say: say}
}

func (p *progress) finished(t *results.Test) {
	p.done++
	if t.State == results.Failed {
		p.failed++
		p.say("FAILED %s\n       %s", t.Name, t.Failure)
	}
	left := time.Duration(float64(time.Since(p.start)) / float64(p.done) * float64(p.total-p.done))
	p.say("%d of %d, %d failed, about %s left: %s", p.done, p.total, p.failed, left.Round(time.Second), t.Name)
}
