// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"time"

	"github.com/skiff-k8s/skiff/conformance/results"
)

// progress says after each test how far the run is.
type progress struct {
	total, done, failed int
	workers             int
	expected            map[*results.Test]float64 // seconds of worker time of what has not finished
	say                 func(format string, args ...any)
}

// typicalSeconds is how long a test takes that has never run.
const typicalSeconds = 20

func newProgress(tests []*results.Test, workers int, say func(format string, args ...any)) *progress {
	p := &progress{total: len(tests), workers: workers, expected: map[*results.Test]float64{}, say: say}
	for _, t := range tests {
		p.expected[t] = t.Seconds
		if t.Seconds == 0 {
			p.expected[t] = typicalSeconds
		}
		if t.Serial() {
			p.expected[t] *= float64(workers)
		}
	}
	return p
}

func (p *progress) left() time.Duration {
	sum := 0.0
	for _, seconds := range p.expected {
		sum += seconds
	}
	return time.Duration(sum/float64(p.workers)) * time.Second
}

func (p *progress) finished(t *results.Test) {
	p.done++
	delete(p.expected, t)
	if t.State == results.Failed {
		p.failed++
		p.say("FAILED %s\n       %s", t.Name, t.Failure)
	}
	p.say("%d of %d, %d failed, about %s left: %s", p.done, p.total, p.failed, p.left(), t.Name)
}
