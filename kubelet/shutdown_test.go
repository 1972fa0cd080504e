// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// A pod that does not end half as long again after its grace period, and ten seconds at least, is told about.
func TestExceededGracePeriod(t *testing.T) {
	for name, c := range map[string]struct {
		own   int64
		grace *int64
		after time.Duration
	}{
		"its own":         {60, nil, 90 * time.Second},
		"the node's":      {60, ptr.To[int64](40), time.Minute},
		"at once":         {60, ptr.To[int64](0), 10 * time.Second},
		"its own is none": {0, nil, 10 * time.Second},
	} {
		for _, ends := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				events := record.NewFakeRecorder(10)
				k := &Kubelet{events: events, ctx: t.Context()}
				w := &worker{ended: make(chan struct{}), pod: &v1.Pod{Spec: v1.PodSpec{TerminationGracePeriodSeconds: &c.own}}}
				go k.expectEnd(w, c.grace)
				time.Sleep(c.after - time.Second)
				if ends {
					close(w.ended)
				}
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if told := len(events.Events); told != 0 && ends || told != 1 && !ends {
					t.Errorf("%s, the pod ends: %v: %d events", name, ends, told)
				}
				if !ends {
					if e := <-events.Events; !strings.HasPrefix(e, "Warning ExceededGracePeriod Container runtime did not kill the pod") {
						t.Errorf("%s: %s", name, e)
					}
				}
			})
		}
	}
}
