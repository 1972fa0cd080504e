// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// Each pod keeps its own range, also over a restart, and a range is given again only when its pod is gone.
func TestRanges(t *testing.T) {
	root := t.TempDir()
	r := New(root, 2, Length)
	first := func(r *Ranges, uid types.UID) uint32 {
		t.Helper()
		ns, err := r.Of(uid)
		if err != nil {
			t.Fatal(err)
		}
		return ns.GetUids()[0].GetHostId()
	}
	if a, b := first(r, "a"), first(r, "b"); a != 65536 || b != 131072 || first(r, "a") != a {
		t.Errorf("ranges of a and b begin at %d and %d", a, b)
	}
	if _, err := r.Of("c"); err == nil {
		t.Error("a third of two ranges was given")
	}
	if err := os.RemoveAll(filepath.Join(root, "a")); err != nil {
		t.Fatal(err)
	}
	again := New(root, 2, Length)
	if b, c := first(again, "b"), first(again, "c"); b != 131072 || c != 65536 {
		t.Errorf("after a restart b and c begin at %d and %d", b, c)
	}
	again.Forget("c")
	if d := first(again, "d"); d != 65536 {
		t.Errorf("d begins at %d", d)
	}
}

// Another number of IDs is for new pods; they do not get what those of before have.
func TestAnotherLength(t *testing.T) {
	root := t.TempDir()
	if _, err := New(root, 2, Length).Of("old"); err != nil {
		t.Fatal(err)
	}
	r := New(root, 2, 2*Length)
	for uid, want := range map[types.UID]uint32{"old": Length, "new": 2 * Length} {
		ns, err := r.Of(uid)
		if err != nil {
			t.Fatal(err)
		}
		if got := ns.GetUids()[0]; got.GetHostId() != want || got.GetLength() != want {
			t.Errorf("%s has %d IDs from %d on, want %d", uid, got.GetLength(), got.GetHostId(), want)
		}
	}
}
