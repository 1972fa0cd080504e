// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// budget is what a figure may be: now, and as the aim for later. Zero is none.
type budget struct{ now, later float64 }

var noBudget = budget{}

// figure is one measured value. Values are the single ones that a median was taken of.
type figure struct {
	Key    string    `json:"key"`
	Name   string    `json:"name"`
	Value  float64   `json:"value"`
	Unit   string    `json:"unit,omitempty"`
	Values []float64 `json:"values,omitempty"`
	Now    float64   `json:"budget,omitempty"`
	Later  float64   `json:"aim,omitempty"`
}

type results struct {
	Taken   time.Time `json:"taken"`
	Commit  string    `json:"commit,omitempty"`
	Machine string    `json:"machine"`
	Figures []figure  `json:"figures"`
}

func (r *results) add(key, name string, value float64, unit string, b budget) {
	r.Figures = append(r.Figures, figure{Key: key, Name: name, Value: value, Unit: unit, Now: b.now, Later: b.later})
}

// seconds adds the median of durations.
func (r *results) seconds(key, name string, took []time.Duration, b budget) {
	r.add(key, name, median(took).Seconds(), "s", b)
	last := &r.Figures[len(r.Figures)-1]
	for _, t := range took {
		last.Values = append(last.Values, t.Seconds())
	}
}

func (r *results) print(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "FIGURE\tVALUE\t\tBUDGET\tAIM\tSINGLE VALUES\n")
	for _, f := range r.Figures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Value), f.Unit, limit(f.Value, f.Now), limit(f.Value, f.Later), numbers(f.Values))
	}
	_ = w.Flush() // it is the terminal, or a pipe that nobody reads any more
	fmt.Fprintf(out, "on %s\n", r.Machine)
}

func number(v float64) string {
	switch {
	case v >= 100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// limit shows a limit, marked if the value is above.
func limit(value, limit float64) string {
	switch {
	case limit == 0:
		return "-"
	case value > limit:
		return number(limit) + " !"
	default:
		return number(limit)
	}
}

func numbers(values []float64) string {
	text := make([]string, len(values))
	for i, v := range values {
		text[i] = number(v)
	}
	return strings.Join(text, " ")
}

// save writes the results to a file named for the day and the commit.
func (r *results) save(ctx context.Context, dir string) error {
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return fmt.Errorf("find the commit: %w", err)
	}
	r.Commit = strings.TrimSpace(string(commit))
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, r.Taken.Format(time.DateOnly)+"-"+r.Commit+".json")
	fmt.Fprintln(os.Stderr, "wrote", path)
	return os.WriteFile(path, append(raw, '\n'), 0o644)
}
