// SPDX-License-Identifier: Apache-2.0

package skiff

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/testhost"
)

var write = flag.Bool("write", false, "write testdata from what this build does, for a person to review")

// objects is one of each kind that a person has most, in API versions that are to stay.
const objects = "testdata/objects.yaml"

// What an earlier build has written MUST open with this one, and be what it was: data directories are in
// testdata/data-<commit>.tgz, made with `go test ./skiff -run Upgrade -write` at that commit.
func TestUpgradeInPlace(t *testing.T) {
	if *write {
		writeData(t)
	}
	archives, err := filepath.Glob("testdata/data-*.tgz")
	if err != nil || len(archives) == 0 {
		t.Fatalf("data directories of earlier builds: %q, %v", archives, err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tgz"), func(t *testing.T) {
			want, err := os.ReadFile(strings.TrimSuffix(archive, ".tgz") + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			b := ownCluster(t, func(h *testhost.Host) error { return tar("-xzf", archive, "-C", h.Path("/var/lib/skiff")) })
			if got := b.contents(); got != string(want) {
				t.Errorf("objects are\n%s\nwant those that were written:\n%s", got, want)
			}
			b.kubectl("", "create", "configmap", "new", "-n", "upgrade")
			if err := b.own.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := b.own.Restart(t.Context()); err != nil {
				t.Fatalf("a second start on the same data: %v", err)
			}
			b.kubectl("", "get", "configmap", "new", "-n", "upgrade")
		})
	}
}

// contents are the objects of the test with what must not change in an upgrade.
func (b *bench) contents() string {
	b.t.Helper()
	const each = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation} {.metadata.creationTimestamp} {.data} {.spec}{\"\\n\"}{end}"
	kinds := "configmaps,secrets,services,deployments,statefulsets,jobs,cronjobs,networkpolicies,ingresses,persistentvolumeclaims,roles,rolebindings,poddisruptionbudgets,widgets"
	return b.kubectl("", "get", kinds, "-n", "upgrade", "-o", each)
}

// writeData makes the data directory of this build.
func writeData(t *testing.T) {
	t.Helper()
	b := ownCluster(t, nil)
	b.namespace("upgrade")
	manifest, err := os.ReadFile(objects)
	if err != nil {
		t.Fatal(err)
	}
	crd, rest, _ := strings.Cut(string(manifest), "\n---\n")
	b.kubectl(crd, "apply", "-f", "-")
	b.kubectl("", "wait", "--for=condition=Established", "crd/widgets.skiff.test", "--timeout=30s")
	b.kubectl(rest, "apply", "-n", "upgrade", "-f", "-")
	var before string
	for settled := false; !settled; settled = before == b.contents() { // controllers have done what they do
		before = b.contents()
		select {
		case <-time.After(2 * time.Second):
		case <-t.Context().Done():
			t.Fatal(context.Cause(t.Context()))
		}
	}
	var build struct{ GitCommit string }
	if err := json.Unmarshal([]byte(b.kubectl("", "get", "--raw", "/version")), &build); err != nil {
		t.Fatal(err)
	}
	if err := b.own.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := "testdata/data-" + build.GitCommit
	if err := tar("-czf", name+".tgz", "-C", b.own.Host().Path("/var/lib/skiff"), "server"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".txt", []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tar(args ...string) error { return exec.Command("tar", args...).Run() }
