// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What the README asks for is all there is to do: make run, in at most a screenful, and its commands in another shell.
func TestReadme(t *testing.T) {
	n := newHost(t)
	repository, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	run := n.Command(t.Context(), "make", "-C", repository, "--no-print-directory", "run")
	run.Env = append(os.Environ(), "SKIFF_CGROUP_ROOT="+n.CgroupRoot()) // the one thing that a test host must be told
	log := create(t, n.log)
	run.Stdout, run.Stderr = log, log
	if _, err := n.Start(run); err != nil {
		t.Fatal(err)
	}
	n.eventually(5*time.Minute, "make run says how to go on", func() error {
		if said := read(t, n.log); !strings.Contains(said, "kubectl get nodes") {
			return errors.New(said)
		}
		return nil
	})
	if said := read(t, n.log); strings.Count(said, "\n") > 24 {
		t.Errorf("make run says\n%s\nwant at most a screenful", said)
	}
	commands := readmeCommands(t, "Then, in another shell:")
	// A person takes longer to type the last one than the pods to start.
	commands = strings.Replace(commands, "curl ", "bin/skiff kubectl rollout status deployment/web --timeout=60s; curl -sS --retry 20 --retry-delay 1 --retry-connrefused ", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	out, err := output(n.Command(ctx, "sh", "-ec", "cd "+repository+"\n"+commands))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"alpha", "Ready", "deployment.apps/web created", "service/web created", "\nweb-"} {
		if !strings.Contains(out, want) {
			t.Errorf("the README's commands say\n%s\nwant %q among it", out, want)
		}
	}
}

// readmeCommands returns the block of commands that follows a line of the README.
func readmeCommands(t *testing.T, line string) string {
	t.Helper()
	_, after, found := strings.Cut(read(t, "../README.md"), "\n"+line+"\n\n")
	block, _, _ := strings.Cut(after, "\n\n")
	if !found || !strings.HasPrefix(block, "    ") {
		t.Fatalf("the README has no commands after %q", line)
	}
	return block
}
