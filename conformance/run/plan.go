// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-k8s/skiff/conformance/results"
	"github.com/skiff-k8s/skiff/conformance/suite"
)

// plan is what is to be run, and how much of it has been.
type plan struct {
	options  options
	path     string // of the state below
	known    *results.Results
	selected []*results.Test
	state    state
}

// state survives an interruption.
type state struct {
	// Of is what the run is about. Another one starts anew.
	Of string `json:"of"`
	// Done counts how often each test has run.
	Done map[string]int `json:"done"`
}

func newPlan(ctx context.Context, o options, e2e string) (*plan, error) {
	p := &plan{options: o, path: filepath.Join(o.output, "state.json")}
	var err error
	if p.known, err = readResults(ctx, o, e2e); err != nil {
		return nil, err
	}
	if p.selected, err = p.choose(); err != nil {
		return nil, err
	}
	if len(p.selected) == 0 {
		return nil, fmt.Errorf("there is no test to run for FOCUS=%q SKIP=%q UNPASSED=%t", o.focus, o.skip, o.unpassed)
	}
	return p, p.resume()
}

func (p *plan) choose() ([]*results.Test, error) {
	selected, err := suite.Select(p.known.Tests, p.options.focus, p.options.skip)
	if err != nil {
		return nil, err
	}
	if p.options.unpassed {
		selected = slices.DeleteFunc(selected, func(t *results.Test) bool { return t.State == results.Passed })
	}
	if !p.options.smoke {
		return selected, nil
	}
	content, err := os.ReadFile("smoke.txt")
	if err != nil {
		return nil, err
	}
	names := strings.Split(strings.TrimSpace(string(content)), "\n")
	for _, name := range names {
		if !strings.HasPrefix(name, "#") && p.known.Get(name) == nil {
			return nil, fmt.Errorf("smoke.txt: there is no test %q", name)
		}
	}
	return slices.DeleteFunc(selected, func(t *results.Test) bool { return !slices.Contains(names, t.Name) }), nil
}

// resume takes up the run that was interrupted, if it was one like this.
func (p *plan) resume() error {
	key, err := testeeKey(p.options)
	if err != nil {
		return err
	}
	of := fmt.Sprintf("%s focus=%q skip=%q smoke=%t all=%t unpassed=%t repeat=%d dual=%t proxy=%q",
		key, p.options.focus, p.options.skip, p.options.smoke, p.options.all, p.options.unpassed, p.options.repeat, p.options.dualStack, p.options.proxyMode)
	content, err := os.ReadFile(p.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && !p.options.fresh {
		if err := json.Unmarshal(content, &p.state); err != nil {
			return fmt.Errorf("read %s: %w", p.path, err)
		}
	}
	if p.state.Of == of && len(p.left(p.options.repeat)) > 0 {
		say("continuing the run that was interrupted")
		return nil
	}
	p.state = state{Of: of, Done: map[string]int{}}
	for _, t := range p.selected {
		t.Runs, t.Failures = 0, 0
	}
	return nil
}

// left are the tests that have run less than that often.
func (p *plan) left(times int) []*results.Test {
	var left []*results.Test
	for _, t := range p.selected {
		if p.state.Done[t.Name] < times {
			left = append(left, t)
		}
	}
	return left
}

func (p *plan) run(ctx context.Context, config suite.Config) error {
	config.Save = p.save
	for round := 1; round <= p.options.repeat && ctx.Err() == nil; round++ {
		left := p.left(round)
		if len(left) == 0 {
			continue
		}
		say("running %d tests (%d of %d)", len(left), round, p.options.repeat)
		if err := suite.Run(ctx, config, left); err != nil {
			return err
		}
	}
	return p.conclude()
}

// save keeps what is known. What runs again later has a verdict, but is counted by its runs.
func (p *plan) save() error {
	for _, t := range p.selected {
		p.state.Done[t.Name] = t.Runs
	}
	content, err := json.Marshal(p.state)
	if err != nil {
		return err
	}
	return errors.Join(p.known.Write(p.options.results), os.WriteFile(p.path, content, 0o644))
}

func (p *plan) conclude() error {
	left := p.left(p.options.repeat)
	if len(left) > 0 {
		return fmt.Errorf("interrupted with %d tests left; the same command continues", len(left))
	}
	if len(p.selected) == len(p.known.Tests) && !p.options.unpassed {
		p.known.EndWhole()
		if err := p.known.Write(p.options.results); err != nil {
			return err
		}
	}
	run := results.Results{Tests: p.selected}
	say("%d passed, %d failed, %d skipped; logs are in %s", run.Count(results.Passed), run.Count(results.Failed), run.Count(results.Skipped), p.options.output)
	for _, t := range p.selected {
		if t.Flaky() {
			say("FLAKY, failed %d of %d times: %s", t.Failures, t.Runs, t.Name)
		}
	}
	if n := run.Count(results.Failed); n > 0 {
		return fmt.Errorf("%d of %d tests failed", n, len(p.selected))
	}
	return nil
}
