// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// One process at a time is the server of a state directory, and others can tell which.
func TestClaim(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if pid, err := Running(dir); pid != 0 || err != nil {
		t.Errorf("Running before anything = %d, %v", pid, err)
	}
	claim, err := TakeClaim(dir)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := Running(dir); pid != os.Getpid() || err != nil {
		t.Errorf("Running = %d, %v, want this process, %d", pid, err, os.Getpid())
	}
	if _, err := TakeClaim(dir); err == nil || !strings.Contains(err.Error(), "another server or agent runs") {
		t.Errorf("a second TakeClaim = %v", err)
	}
	claim.Release()
	if pid, err := Running(dir); pid != 0 || err != nil {
		t.Errorf("Running after Release = %d, %v", pid, err)
	}
	if err := AwaitEnd(t.Context(), dir); err != nil {
		t.Error(err)
	}
	claim, err = TakeClaim(dir)
	if err != nil {
		t.Fatal(err)
	}
	claim.Release()
}
