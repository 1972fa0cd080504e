// SPDX-License-Identifier: Apache-2.0

// Package results keeps the verdicts of the suite, one per test, and renders the table of them.
package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// State is a verdict.
type State string

// Values of State. A test of several runs has passed if it passed each time.
const (
	Passed  State = "passed"
	Failed  State = "failed"
	Skipped State = "skipped"
	NotRun  State = "not run"
)

// Test is what is known about one test.
type Test struct {
	Name    string  `json:"name"`
	File    string  `json:"file"`
	State   State   `json:"state"`
	Seconds float64 `json:"seconds,omitempty"` // of the last run
	// Failure is the first line of what it said when it last failed, or why it was skipped.
	Failure string `json:"failure,omitempty"`
	// Runs and Failures count the runs of the last time that the suite ran it.
	Runs     int `json:"runs,omitempty"`
	Failures int `json:"failures,omitempty"`
	Found
}

// Found says of which source a verdict is, and since when.
type Found struct {
	// Skiff is the version that was tested, and Commit the source that it was made from.
	Skiff  string `json:"skiff,omitempty"`
	Commit string `json:"commit,omitempty"`
	// Date is the day and time of the last run, in UTC.
	Date string `json:"date,omitempty"`
}

// SIG is the special interest group of Kubernetes that the test belongs to.
func (t *Test) SIG() string {
	sig, _, ok := strings.Cut(strings.TrimPrefix(t.Name, "["), "]")
	if !ok {
		return "none"
	}
	return sig
}

// Serial says whether the test must have the cluster for itself.
func (t *Test) Serial() bool { return strings.Contains(t.Name, "[Serial]") }

// Flaky says whether the test has both passed and failed.
func (t *Test) Flaky() bool { return t.Failures > 0 && t.Failures < t.Runs }

// Results are all tests of the suite, sorted by name.
type Results struct {
	Kubernetes string  `json:"kubernetes"`
	Tests      []*Test `json:"tests"`
	// Whole are the runs of all tests, the last one last.
	Whole []Whole `json:"whole,omitempty"`
}

// Whole is what came of a run of all tests.
type Whole struct {
	Commit string `json:"commit"`
	// From and To are when the first and the last verdict fell.
	From string `json:"from"`
	To   string `json:"to"`
	// Times is how often each test ran.
	Times   int `json:"times"`
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`
	// FailedTests are the names of those that failed. Runs before 2026-11-28 did not note them.
	FailedTests []string `json:"failedTests,omitempty"`
}

// maxWhole is how many runs of all tests are remembered.
const maxWhole = 10

// EndWhole remembers that the verdicts, all of one commit, are those of a run of all tests.
func (r *Results) EndWhole() {
	if len(r.Tests) == 0 {
		return
	}
	w := Whole{
		Commit: r.Tests[0].Commit, From: r.Tests[0].Date, Times: r.Tests[0].Runs,
		Passed: r.Count(Passed), Failed: r.Count(Failed), Skipped: r.Count(Skipped),
	}
	for _, t := range r.Tests {
		w.From, w.To = min(w.From, t.Date), max(w.To, t.Date)
		if t.State == Failed {
			w.FailedTests = append(w.FailedTests, t.Name)
		}
	}
	r.Whole = append(r.Whole, w)
	r.Whole = r.Whole[max(0, len(r.Whole)-maxWhole):]
}

// Read reads results. None are there if the file is not.
func Read(path string) (*Results, error) {
	r := &Results{}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// Write writes all or nothing.
func (r *Results) Write(path string) error {
	slices.SortFunc(r.Tests, func(a, b *Test) int { return strings.Compare(a.Name, b.Name) })
	content, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".unfinished", append(content, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".unfinished", path)
}

// Cover makes the results those of exactly these tests: what is new has not run, and what is gone is forgotten.
func (r *Results) Cover(tests []Test) {
	known := map[string]*Test{}
	for _, t := range r.Tests {
		known[t.Name] = t
	}
	r.Tests = nil
	for _, t := range tests {
		old := known[t.Name]
		if old == nil {
			old = &Test{Name: t.Name, State: NotRun}
		}
		old.File = t.File
		r.Tests = append(r.Tests, old)
	}
}

// Sources counts the verdicts by the commit that they are of.
func (r *Results) Sources() map[string]int {
	sources := map[string]int{}
	for _, t := range r.Tests {
		if t.State != NotRun {
			sources[t.Commit]++
		}
	}
	return sources
}

// Get finds a test by its name.
func (r *Results) Get(name string) *Test {
	for _, t := range r.Tests {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Count counts the tests with a verdict.
func (r *Results) Count(s State) int {
	n := 0
	for _, t := range r.Tests {
		if t.State == s {
			n++
		}
	}
	return n
}
