// SPDX-License-Identifier: Apache-2.0

package results

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestWholeRuns(t *testing.T) {
	r := &Results{Tests: []*Test{
		{Name: "[sig-node] b", State: Passed, Runs: 1, Found: Found{Commit: "abc", Date: "2026-11-28 02:00:00"}},
		{Name: "[sig-apps] a", State: Failed, Runs: 1, Failures: 1, Failure: "oh", Found: Found{Commit: "abc", Date: "2026-11-28 01:00:00"}},
	}}
	r.EndWhole()
	want := Whole{Commit: "abc", From: "2026-11-28 01:00:00", To: "2026-11-28 02:00:00", Times: 1, Passed: 1, Failed: 1, FailedTests: []string{"[sig-apps] a"}}
	if !reflect.DeepEqual(r.Whole[0], want) {
		t.Errorf("remembered %+v, want %+v", r.Whole[0], want)
	}
	for i := range maxWhole {
		r.Tests[0].Commit, r.Tests[1].Commit = fmt.Sprint(i), fmt.Sprint(i)
		r.EndWhole()
	}
	if len(r.Whole) != maxWhole || r.Whole[0].Commit != "0" {
		t.Errorf("remembers %d runs, the first of commit %s; want the last %d", len(r.Whole), r.Whole[0].Commit, maxWhole)
	}
	got := r.Markdown("# Conformance", "conformance tests", "results.json", nil)
	if !strings.Contains(got, "| 9 | 1× | 1 | 1 | 0 |") || strings.Index(got, "| 9 | 1× ") > strings.Index(got, "| 8 | 1× ") {
		t.Errorf("the report does not name the runs, the last one first:\n%s", got)
	}
	if !strings.Contains(got, "- 9: failed [sig-apps] a\n") {
		t.Errorf("the report does not name what failed:\n%s", got)
	}
}

// Of tests that are told by an expression, those that cannot pass are those that have not.
func TestImpossible(t *testing.T) {
	r := &Results{Tests: []*Test{
		{Name: "[sig-node] resize a", State: Passed}, {Name: "[sig-node] resize b", State: Failed}, {Name: "[sig-node] c", State: Failed}, {Name: "[sig-node] d", State: NotRun},
	}}
	_, got, _ := strings.Cut(r.Markdown("# Beyond", "tests", "beyond.json", []Impossible{{Matching: "resize [ab]$", Reason: "No way."}, {Name: "[sig-node] d", Reason: "Neither."}}), "## Cannot pass")
	for name, want := range map[string]bool{"resize a": false, "resize b": true, "sig-node] c": false, "sig-node] d": true} {
		if strings.Contains(got, name) != want {
			t.Errorf("%s among those that cannot pass: %t, want %t:\n%s", name, !want, want, got)
		}
	}
}
