// SPDX-License-Identifier: Apache-2.0

// Command scheduler runs the scheduler's benchmarks and prints them as tables, with what is aimed at beside what was measured. It has to
// be started in the repository.
//
// The aims are those of the project: a pod's cost grows less than the number of nodes does; on 5,000 nodes 1,500 plain pods are placed per second by
// the scheduler alone, and 400 pods of any shape through the API, unless others have to go for them.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	aloneAim      = 1500 // pods/s of Basic on 5,000 nodes
	throughAPIAim = 400  // pods/s of what does not preempt
)

func main() {
	pattern := flag.String("bench", "Alone|ThroughAPI", "which benchmarks to run")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *pattern, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench/scheduler:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, pattern string, out io.Writer) error {
	began, before := time.Now(), load()
	cmd := exec.CommandContext(ctx, "go", "test", "./scheduler", "-run", "^$", "-bench", pattern, "-benchtime", "1x", "-timeout", "60m")
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	results, err := read(lines, os.Stderr)
	if err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run go test: %w", err)
	}
	fmt.Fprintf(out, "\nIn %s; the machine's load was %s before and %s after.\n", time.Since(began).Round(time.Second), before, load())
	results.print(out)
	return nil
}

// load is how many processes wanted to run of late.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// results are values by benchmark, shape, number of nodes and unit.
type results map[key]float64

type key struct {
	benchmark, shape string
	nodes            int
	unit             string
}

var (
	line   = regexp.MustCompile(`^Benchmark(\w+)/(\w+)/nodes=(\d+)\S*\s+\d+\s(.*)`)
	logged = regexp.MustCompile(`^[IWE]\d{4} `) // by what is measured, in klog's format
)

// read takes what go test prints apart, and passes it on to progress but for what was logged.
func read(from io.Reader, progress io.Writer) (results, error) {
	r := make(results)
	scanner := bufio.NewScanner(from)
	for scanner.Scan() {
		if !logged.MatchString(scanner.Text()) {
			fmt.Fprintln(progress, scanner.Text())
		}
		m := line.FindStringSubmatch(scanner.Text())
		if m == nil {
			continue
		}
		nodes, err := strconv.Atoi(m[3])
		if err != nil {
			return nil, err
		}
		fields := strings.Fields(m[4])
		for i := 0; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("read %q: %w", scanner.Text(), err)
			}
			r[key{m[1], m[2], nodes, fields[i+1]}] = value
		}
	}
	return r, scanner.Err()
}

// shapes and sizes of a benchmark, shapes by name.
func (r results) shapes(benchmark string) (shapes []string, sizes []int) {
	for k := range r {
		if k.benchmark == benchmark {
			shapes, sizes = append(shapes, k.shape), append(sizes, k.nodes)
		}
	}
	slices.Sort(shapes)
	slices.Sort(sizes)
	return slices.Compact(shapes), slices.Compact(sizes)
}

func (r results) print(out io.Writer) {
	r.table(out, "Alone", "cpu-µs/pod", "What a pod costs in the scheduler alone, in µs of CPU; aim: from size to size it grows less than the number of nodes", growsSlowly)
	r.table(out, "Alone", "pods/s", fmt.Sprintf("Pods per second in the scheduler alone; aim: %d of Basic on 5,000 nodes", aloneAim), func(shape string, sizes []int, values []float64) string {
		if i := slices.Index(sizes, 5000); shape == "Basic" && i >= 0 {
			return verdict(values[i] >= aloneAim)
		}
		return ""
	})
	r.table(out, "Alone", "p99-ms", "The attempt of which one in a hundred took longer, in ms, binding included", noAim)
	r.table(out, "ThroughAPI", "pods/s", fmt.Sprintf("Pods per second through API server and etcd; aim: %d", throughAPIAim), func(shape string, _ []int, values []float64) string {
		if shape == "Preemption" {
			return ""
		}
		return verdict(slices.Min(values) >= throughAPIAim)
	})
	r.table(out, "ThroughAPI", "creates/s", "Such pods created per second just before, by eight clients: what the machine did at that moment", noAim)
}

func noAim(string, []int, []float64) string { return "" }

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "missed"
}

// growsSlowly compares each size with the one before.
func growsSlowly(_ string, sizes []int, values []float64) string {
	for i := 1; i < len(values); i++ {
		if values[i]/values[i-1] >= float64(sizes[i])/float64(sizes[i-1]) {
			return "missed"
		}
	}
	return "met"
}

// table prints one unit of a benchmark; aim judges a shape that was measured at all sizes.
func (r results) table(out io.Writer, benchmark, unit, title string, aim func(shape string, sizes []int, values []float64) string) {
	shapes, sizes := r.shapes(benchmark)
	if len(shapes) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%s:\n\n| shape |", title)
	for _, size := range sizes {
		fmt.Fprintf(out, " %d nodes |", size)
	}
	fmt.Fprintf(out, " aim |\n| --- |%s --- |\n", strings.Repeat(" --: |", len(sizes)))
	for _, shape := range shapes {
		fmt.Fprintf(out, "| %s |", shape)
		var values []float64
		for _, size := range sizes {
			value, measured := r[key{benchmark, shape, size, unit}]
			if !measured {
				fmt.Fprint(out, " |")
				continue
			}
			values = append(values, value)
			fmt.Fprintf(out, " %.0f |", value)
		}
		judged := ""
		if len(values) == len(sizes) {
			judged = aim(shape, sizes, values)
		}
		fmt.Fprintf(out, " %s |\n", judged)
	}
}
