// SPDX-License-Identifier: Apache-2.0

// Package suite runs upstream's conformance tests on a cluster.
//
// Several e2e.test processes run at once, each a handful of tests at a time, so that a verdict is on disk minutes after its
// test and an interrupted run can be continued. Tests that must be alone come last. What a test said
// goes to a log of its own.
package suite

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/conformance/results"
)

// List asks e2e.test for all conformance tests.
func List(ctx context.Context, e2e string) ([]results.Test, error) {
	out, err := exec.CommandContext(ctx, e2e, "--list-conformance-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("list the conformance tests: %w", err)
	}
	var entries []struct{ Codename, File string }
	if err := yaml.Unmarshal(out, &entries); err != nil {
		return nil, fmt.Errorf("list the conformance tests: %w", err)
	}
	var tests []results.Test
	for _, e := range entries {
		tests = append(tests, results.Test{Name: e.Codename, File: e.File})
	}
	if len(tests) == 0 {
		return nil, errors.New("e2e.test knows no conformance tests")
	}
	return tests, nil
}

// listed is how e2e.test lists a test: where it is, and its name.
var listed = regexp.MustCompile(`(?m)^\s*\S*/(test/e2e/\S+\.go):\d+: (\[sig-.*)$`)

// ListOthers asks e2e.test for the tests that are not conformance tests, without those of features that are off by default.
func ListOthers(ctx context.Context, e2e string) ([]results.Test, error) {
	out, err := exec.CommandContext(ctx, e2e, "--list-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests: %w", err)
	}
	tests := others(string(out))
	if len(tests) == 0 {
		return nil, errors.New("e2e.test knows no tests besides conformance")
	}
	return tests, nil
}

func others(list string) []results.Test {
	var tests []results.Test
	for _, found := range listed.FindAllStringSubmatch(list, -1) {
		if !strings.Contains(found[2], "[Conformance]") && !strings.Contains(found[2], "[Feature:OffByDefault]") {
			tests = append(tests, results.Test{Name: found[2], File: found[1]})
		}
	}
	return tests
}

// Select returns the tests whose names focus matches and skip, unless it is empty, does not.
func Select(tests []*results.Test, focus, skip string) ([]*results.Test, error) {
	wanted, err := regexp.Compile(focus)
	if err != nil {
		return nil, fmt.Errorf("understand FOCUS: %w", err)
	}
	unwanted, err := regexp.Compile(skip)
	if err != nil {
		return nil, fmt.Errorf("understand SKIP: %w", err)
	}
	var selected []*results.Test
	for _, t := range tests {
		if wanted.MatchString(t.Name) && (skip == "" || !unwanted.MatchString(t.Name)) {
			selected = append(selected, t)
		}
	}
	return selected, nil
}

// batch is some tests for one process.
type batch []*results.Test

// batchSize bounds how much an interruption loses. Starting a process costs two seconds, so one is not it.
const batchSize = 5

// batches splits tests, those that took longest first, so that the end does not wait for one of them.
func batches(tests []*results.Test) []batch {
	sorted := slices.Clone(tests)
	slices.SortStableFunc(sorted, func(a, b *results.Test) int {
		if a.Seconds != b.Seconds {
			return int(b.Seconds - a.Seconds)
		}
		return strings.Compare(a.Name, b.Name)
	})
	var all []batch
	for b := range slices.Chunk(sorted, batchSize) {
		all = append(all, b)
	}
	return all
}

// focus is an expression that matches exactly the tests of the batch. Ginkgo puts the name of the suite before theirs.
func (b batch) focus() string {
	var names []string
	for _, t := range b {
		names = append(names, regexp.QuoteMeta(t.Name))
	}
	return "(" + strings.Join(names, "|") + ")$"
}
