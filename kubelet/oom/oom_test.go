// SPDX-License-Identifier: Apache-2.0

package oom

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of what kernels write, only kills for the sake of the whole machine are told.
func TestFollow(t *testing.T) {
	const (
		asked = "4,100,1000,-;stress invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0\n"
		dump  = "4,101,1001,-;CPU: 1 PID: 77 Comm: stress Not tainted 6.1.0\n SUBSYSTEM=x\n DEVICE=+y;z\n"
	)
	for name, c := range map[string]struct {
		log  string
		want []Kill
	}{
		"the machine's": {asked + dump +
			"6,102,1002,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/kubepods/poda/c1,task=stress,pid=77,uid=0\n" +
			"3,103,1003,-;Out of memory: Killed process 77 (stress) total-vm:4kB, anon-rss:4kB\n", []Kill{{"stress", 77}}},
		"a container's": {asked + dump +
			"6,102,1002,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c1,mems_allowed=0,oom_memcg=/kubepods/poda,task_memcg=/kubepods/poda/c1,task=stress,pid=77,uid=0\n" +
			"3,103,1003,-;Memory cgroup out of memory: Killed process 77 (stress) total-vm:4kB\n", nil},
		"of the root of all cgroups": {asked +
			"6,102,1002,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/,task_memcg=/a,task=my, program,pid=78,uid=0\n", []Kill{{"my, program", 78}}},
		"an old kernel's machine":   {asked + "3,103,1003,-;Killed process 79 (init) total-vm:4kB\n", []Kill{{"init", 79}}},
		"an old kernel's container": {asked + "6,102,1002,-;Task in /kubepods/poda/c1 killed as a result of limit of /kubepods/poda\n3,103,1003,-;Killed process 79 (init) total-vm:4kB\n", nil},
		"one after the other": {asked + "6,102,1002,-;Task in /a killed as a result of limit of /a\n3,103,1003,-;Killed process 79 (init) x\n" +
			asked + "3,103,1003,-;Out of memory: Killed process 80 (web) x\n", []Kill{{"web", 80}}},
		"something else": {"3,103,1003,-;Killed process 80 (web) by hand\n" + dump, nil},
	} {
		var got []Kill
		if err := follow(strings.NewReader(c.log), func(k Kill) { got = append(got, k) }); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// Records that were overwritten are lost, the next ones are not.
func TestFollowLosesRecords(t *testing.T) {
	log := &lossy{parts: []string{"4,1,1,-;x invoked oom-killer: y\n", "", "3,9,9,-;Out of memory: Killed process 7 (x) y\n"}}
	var got []Kill
	if err := follow(log, func(k Kill) { got = append(got, k) }); !errors.Is(err, io.EOF) || !slices.Equal(got, []Kill{{"x", 7}}) {
		t.Errorf("%v, %v", got, err)
	}
}

// lossy returns EPIPE for empty parts, as /dev/kmsg does.
type lossy struct{ parts []string }

func (l *lossy) Read(b []byte) (int, error) {
	if len(l.parts) == 0 {
		return 0, io.EOF
	}
	part := l.parts[0]
	l.parts = l.parts[1:]
	if part == "" {
		return 0, &os.PathError{Op: "read", Path: KernelLog, Err: unix.EPIPE}
	}
	return copy(b, part), nil
}

// A log is followed until that is to end, though nothing comes.
func TestFollowFile(t *testing.T) {
	log := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	ctx, cancel := context.WithCancel(t.Context())
	kills, done := make(chan Kill, 1), make(chan error, 1)
	go func() { done <- Follow(ctx, log, func(k Kill) { kills <- k }) }()
	if _, err := writer.WriteString("4,1,1,-;x invoked oom-killer: y\n3,2,2,-;Out of memory: Killed process 7 (x) y\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case k := <-kills:
		if want := "System OOM encountered, victim process: x, pid: 7"; k.Message() != want {
			t.Errorf("%q, want %q", k.Message(), want)
		}
	case err := <-done:
		t.Fatalf("ended: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was told")
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it goes on")
	}
	if err := Follow(t.Context(), filepath.Join(t.TempDir(), "none"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a log: %v", err)
	}
}
