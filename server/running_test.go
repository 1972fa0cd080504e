// SPDX-License-Identifier: Apache-2.0

package server

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

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

// Controllers are authenticated users like all others: flow control and RBAC go by that.
func TestControllerUser(t *testing.T) {
	u := controllerUser("job-controller")
	if want := "system:serviceaccount:kube-system:job-controller"; u.GetName() != want {
		t.Errorf("name = %s, want %s", u.GetName(), want)
	}
	for _, want := range []string{"system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"} {
		if !slices.Contains(u.GetGroups(), want) {
			t.Errorf("groups = %v, want %s among them", u.GetGroups(), want)
		}
	}
}
