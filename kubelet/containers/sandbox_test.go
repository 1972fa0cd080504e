// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"testing"
	"testing/synctest"
	"time"
)

// Sandboxes take turns, but one that hangs does not keep the others waiting for ever.
func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Runtime{turns: make(chan struct{}, 1)}
		first, err := r.turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.AfterFunc(time.Second, first)
		second, err := r.turn(t.Context()) // and it hangs
		if err != nil || time.Since(began) != time.Second {
			t.Errorf("the second waited %v, %v; want until the first was done", time.Since(began), err)
		}
		third, err := r.turn(t.Context())
		if err != nil || time.Since(began) != time.Second+turnPatience {
			t.Errorf("the third waited %v, %v; want %v", time.Since(began)-time.Second, err, turnPatience)
		}
		third()
		second()
		if len(r.turns) != 0 {
			t.Error("a turn was not given back")
		}
	})
}
