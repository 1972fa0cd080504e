// SPDX-License-Identifier: Apache-2.0

package server

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
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
	if _, err := TakeClaim(dir); err == nil || !strings.Contains(err.Error(), "another server runs") {
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

// The settings of a run are found again with nothing but the data directory.
func TestLastRun(t *testing.T) {
	cfg := Default()
	cfg.DataDir = t.TempDir()
	if got, err := cfg.LastRun(); err != nil || !reflect.DeepEqual(got, cfg) {
		t.Errorf("LastRun before any = %+v, %v", got, err)
	}
	ran := cfg
	ran.NodeName, ran.StateDir, ran.Node.CgroupRoot = "alpha", "/elsewhere", "/group"
	ran.NodeIP = []byte{192, 0, 2, 1}
	ran.Progress, ran.Started = func(Step, time.Duration) {}, time.Now()
	if err := ran.Complete(); err != nil {
		t.Fatal(err)
	}
	if err := ran.record(); err != nil {
		t.Fatal(err)
	}
	got, err := cfg.LastRun()
	ran.Progress, ran.Started = nil, time.Time{}
	if err != nil || got.NodeIP.String() != "192.0.2.1" {
		t.Errorf("LastRun = %+v, %v", got, err)
	}
	got.NodeIP, ran.NodeIP = nil, nil
	if !reflect.DeepEqual(got, ran) {
		t.Errorf("LastRun = %+v, want %+v", got, ran)
	}
}
