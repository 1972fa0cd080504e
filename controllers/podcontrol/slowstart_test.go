// SPDX-License-Identifier: Apache-2.0

package podcontrol

import (
	"fmt"
	"testing"
	"testing/synctest"
)

func TestSlowStart(t *testing.T) {
	for _, tc := range []struct{ n, failAt, wantDone, wantCalls int }{
		{n: 10, failAt: 0, wantDone: 10, wantCalls: 10},
		{n: 10, failAt: 1, wantDone: 0, wantCalls: 1},
		{n: 10, failAt: 3, wantDone: 2, wantCalls: 3}, // of the second batch, two calls, one worked
		{n: 0, failAt: 0, wantDone: 0, wantCalls: 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			calls := make(chan int, 100)
			done, err := SlowStart(tc.n, func(int) error {
				calls <- 0
				if len(calls) == tc.failAt {
					return fmt.Errorf("call %d", tc.failAt)
				}
				return nil
			})
			if done != tc.wantDone || len(calls) != tc.wantCalls || (err != nil) != (tc.failAt > 0) {
				t.Errorf("SlowStart(%d) failing at %d = %d, %v after %d calls; want %d after %d", tc.n, tc.failAt, done, err, len(calls), tc.wantDone, tc.wantCalls)
			}
		})
	}
}
