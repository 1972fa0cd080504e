// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"regexp"
	"testing"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/skiff-k8s/skiff/conformance/results"
)

func spec(name string, state types.SpecState, said string) types.SpecReport {
	return types.SpecReport{LeafNodeType: types.NodeTypeIt, LeafNodeText: name, State: state, Failure: types.Failure{Message: said}}
}

// A process may run all, some or none of its tests. Each test gets one verdict, or is left for the next process.
func TestRecord(t *testing.T) {
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx     context.Context
		reports types.SpecReports
		want    map[string]results.State // of tests a and b; what is missing is left
		said    string                   // by a
	}{
		"both ran": {
			t.Context(), types.SpecReports{spec("a", types.SpecStateFailed, "\nexpected 1\ngot 2"), spec("b", types.SpecStatePassed, "")},
			map[string]results.State{"a": results.Failed, "b": results.Passed}, "expected 1",
		},
		"the suite skipped one": {
			t.Context(), types.SpecReports{spec("a", types.SpecStateSkipped, "needs two nodes"), spec("b", types.SpecStatePassed, "")},
			map[string]results.State{"a": results.Skipped, "b": results.Passed}, "needs two nodes",
		},
		"the process died with the first": {
			t.Context(), types.SpecReports{spec("a", types.SpecStatePanicked, "nil")},
			map[string]results.State{"a": results.Failed}, "nil",
		},
		"no test could start": {
			t.Context(), types.SpecReports{{LeafNodeType: types.NodeTypeSynchronizedBeforeSuite, State: types.SpecStateFailed, Failure: types.Failure{Message: "no nodes"}}},
			map[string]results.State{"a": results.Failed, "b": results.Failed}, "the suite could not be set up: no nodes",
		},
		"the person pressed ^C": {
			interrupted, types.SpecReports{spec("a", types.SpecStatePassed, ""), spec("b", types.SpecStateInterrupted, "interrupted by user")},
			map[string]results.State{"a": results.Passed}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &runner{
				config:   Config{OutputDir: t.TempDir(), Save: func() error { return nil }, Say: t.Logf},
				progress: newProgress(nil, 1, t.Logf),
			}
			a, b := &results.Test{Name: "a"}, &results.Test{Name: "b"}
			rest, err := r.record(tc.ctx, batch{a, b}, tc.reports)
			if err != nil {
				t.Fatal(err)
			}
			if a.State != tc.want["a"] || b.State != tc.want["b"] || a.Failure != tc.said {
				t.Errorf("a %q (%q), b %q; want %v, a saying %q", a.State, a.Failure, b.State, tc.want, tc.said)
			}
			if len(rest) != 2-len(tc.want) {
				t.Errorf("%d tests are left, want %d", len(rest), 2-len(tc.want))
			}
		})
	}
}

// A test that failed once has failed, however often it passes.
func TestFlakyCountsAsFailed(t *testing.T) {
	r := &runner{config: Config{OutputDir: t.TempDir(), Say: t.Logf}, progress: newProgress(nil, 1, t.Logf)}
	test := &results.Test{Name: "a"}
	r.take(test, spec("a", types.SpecStatePassed, ""), "")
	r.take(test, spec("a", types.SpecStateFailed, "late"), "")
	r.take(test, spec("a", types.SpecStatePassed, ""), "")
	if test.State != results.Failed || !test.Flaky() || test.Runs != 3 || test.Failures != 1 {
		t.Errorf("%+v", test)
	}
}

// The focus of a batch matches its tests as ginkgo calls them, and no test whose name goes on.
func TestFocus(t *testing.T) {
	b := batch{{Name: "[sig-node] Pods should run (fast) [Conformance]"}, {Name: "[sig-apps] Job"}}
	focus := regexp.MustCompile(b.focus())
	for name, want := range map[string]bool{
		"Kubernetes e2e suite [sig-node] Pods should run (fast) [Conformance]":        true,
		"Kubernetes e2e suite [sig-apps] Job":                                         true,
		"Kubernetes e2e suite [sig-node] Pods should run (fast) [Conformance] always": false,
	} {
		if focus.MatchString(name) != want {
			t.Errorf("%q matches %q: %t, want %t", b.focus(), name, !want, want)
		}
	}
}

// What is left is told from how long each test took the last time; tests that must be alone count in full.
func TestProgressTellsWhatIsLeft(t *testing.T) {
	long, short, alone, unknown := &results.Test{Name: "long", Seconds: 100}, &results.Test{Name: "short", Seconds: 10}, &results.Test{Name: "alone [Serial]", Seconds: 50}, &results.Test{Name: "unknown"}
	p := newProgress([]*results.Test{long, short, alone, unknown}, 2, t.Logf)
	if got, want := p.left(), time.Duration(100+10+2*50+typicalSeconds)*time.Second/2; got != want {
		t.Errorf("before the first test %s are left, want %s", got, want)
	}
	p.finished(long)
	if got, want := p.left(), time.Duration(10+2*50+typicalSeconds)*time.Second/2; got != want {
		t.Errorf("after the longest test %s are left, want %s", got, want)
	}
}

func TestOthers(t *testing.T) {
	got := others(`The following spec names can be used with 'ginkgo run --focus/skip':
    k8s.io/kubernetes@v1.37.2/test/e2e/scheduling/gang_scheduling.go:47: [sig-scheduling] GangScheduling should wait [Beta] [Feature:OffByDefault]
    k8s.io/kubernetes@v1.37.2/test/e2e/scheduling/limit_range.go:65: [sig-scheduling] LimitRange should have defaults [Conformance]
    k8s.io/kubernetes@v1.37.2/test/e2e/scheduling/predicates.go:750: [sig-scheduling] SchedulerPredicates validates [Serial]
`)
	if len(got) != 1 || got[0].Name != "[sig-scheduling] SchedulerPredicates validates [Serial]" || got[0].File != "test/e2e/scheduling/predicates.go" {
		t.Errorf("others = %+v", got)
	}
}
