// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/flowcontrol"
)

// count is where events end.
type count struct{ events int }

func (c *count) Create(e *v1.Event) (*v1.Event, error)          { c.events++; return e, nil }
func (c *count) Update(e *v1.Event) (*v1.Event, error)          { c.events++; return e, nil }
func (c *count) Patch(e *v1.Event, _ []byte) (*v1.Event, error) { c.events++; return e, nil }

// Of many events some are sent at once, and the others as fast as they may be.
func TestEventsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrived := &count{}
		l := limited{t.Context(), arrived, flowcontrol.NewTokenBucketRateLimiter(5, 10)}
		began := time.Now()
		for i := range 20 {
			var err error
			switch i % 3 {
			case 0:
				_, err = l.Create(&v1.Event{})
			case 1:
				_, err = l.Update(&v1.Event{})
			case 2:
				_, err = l.Patch(&v1.Event{}, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if i == 9 && time.Since(began) > 0 {
				t.Errorf("ten events took %v", time.Since(began))
			}
		}
		if took := time.Since(began); took < 1900*time.Millisecond || took > 2100*time.Millisecond || arrived.events != 20 {
			t.Errorf("%d events arrived in %v, want all 20 in 2 s", arrived.events, took)
		}
	})
}
