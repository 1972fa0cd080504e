// SPDX-License-Identifier: Apache-2.0

package diskusage

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A file system that does not answer costs one goroutine, and nobody more than a moment.
func TestAskerGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, away := 0, make(chan struct{})
		a := &Asker{ask: func(dir string) (FileSystem, error) {
			if dir == "/far" {
				asked++
				<-away
			}
			return FileSystem{Capacity: 1}, nil
		}}
		for range 3 {
			began := time.Now()
			if _, err := a.OfFileSystem(t.Context(), "/far"); err == nil || !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("a file system that does not answer: %v", err)
			}
			if took := time.Since(began); took != patience {
				t.Errorf("it took %v", took)
			}
			if f, err := a.OfFileSystem(t.Context(), "/near"); err != nil || f.Capacity != 1 {
				t.Errorf("another one: %v, %v", f, err)
			}
		}
		if asked != 1 {
			t.Errorf("it was asked %d times", asked)
		}
		close(away)
		synctest.Wait()
		if f, err := a.OfFileSystem(t.Context(), "/far"); err != nil || f.Capacity != 1 {
			t.Errorf("when it is back: %v, %v", f, err)
		}
	})
}
