// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/onsi/ginkgo/v2/types"

	"github.com/skiff-k8s/skiff/conformance/cluster"
	"github.com/skiff-k8s/skiff/conformance/results"
)

// Config says how to run.
type Config struct {
	E2E, Kubectl string // programs
	Cluster      cluster.Cluster
	OutputDir    string // for logs and reports
	Parallel     int
	Found        results.Found // what is tested, and how old it is
	// Save is called after each batch, never twice at once.
	Save func() error
	Say  func(format string, args ...any)
}

const (
	// A test that hangs must not keep the others from running.
	testPatience = 20 * time.Minute
	// An interrupted process cleans up after its test.
	interruptPatience = time.Minute
)

// Run runs the tests and puts the verdicts into them. It returns early, without an error, when ctx ends; the
// tests that have not finished by then keep the verdict that they had.
func Run(ctx context.Context, config Config, tests []*results.Test) error {
	r := &runner{config: config, progress: newProgress(tests, config.Parallel, config.Say)}
	for _, dir := range []string{"logs", "batches"} {
		if err := os.MkdirAll(filepath.Join(config.OutputDir, dir), 0o755); err != nil {
			return err
		}
	}
	var parallel, serial []*results.Test
	for _, t := range tests {
		if t.Serial() {
			serial = append(serial, t)
		} else {
			parallel = append(parallel, t)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-config.Cluster.Done():
			cancel(errClusterGone)
		case <-ctx.Done():
		}
	}()
	err := errors.Join(r.runAll(ctx, parallel, config.Parallel), r.runAll(ctx, serial, 1), r.writeJUnit())
	if cause := context.Cause(ctx); errors.Is(cause, errClusterGone) {
		err = errors.Join(err, cause)
	}
	return err
}

var errClusterGone = errors.New("the cluster has ended in the middle of the tests (see its log)")

type runner struct {
	config Config

	mu       sync.Mutex // guards what follows, and the tests' verdicts
	progress *progress
	number   int // of batches so far
	reports  types.SpecReports
}

// runAll runs tests with a number of processes at once.
func (r *runner) runAll(ctx context.Context, tests []*results.Test, workers int) error {
	queue := make(chan batch)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for b := range queue {
				errs[w] = errors.Join(errs[w], r.runBatch(ctx, b))
			}
		})
	}
	for _, b := range batches(tests) {
		select {
		case queue <- b:
		case <-ctx.Done():
		}
	}
	close(queue)
	wg.Wait()
	return errors.Join(errs...)
}

// runBatch runs one process after the other until each test of the batch has a verdict: a process that a test
// has brought down, or that took too long, leaves the rest of its tests to the next.
func (r *runner) runBatch(ctx context.Context, b batch) error {
	for len(b) > 0 && ctx.Err() == nil {
		r.mu.Lock()
		r.number++
		name := filepath.Join(r.config.OutputDir, "batches", strconv.Itoa(r.number))
		r.mu.Unlock()
		output, err := r.runProcess(ctx, name, b)
		if err != nil {
			return err
		}
		reports, err := readReports(name + ".json")
		if err != nil && ctx.Err() == nil {
			// No report: the process itself broke. The first test is blamed, so that the loop ends.
			reports = types.SpecReports{lost(b[0], "e2e.test ended without a report: "+lastLine(output))}
		}
		if b, err = r.record(ctx, b, reports); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) runProcess(ctx context.Context, name string, b batch) (output string, err error) {
	log, err := os.Create(name + ".log")
	if err != nil {
		return "", err
	}
	defer log.Close()
	cmd := r.config.Cluster.Command(context.WithoutCancel(ctx), r.config.E2E,
		"--kubeconfig="+r.config.Cluster.Kubeconfig(), "--kubectl-path="+r.config.Kubectl, "--provider=skeleton",
		"--disable-log-dump=true", "--e2e-output-dir="+r.config.OutputDir,
		"--ginkgo.no-color", "--ginkgo.silence-skips", "--ginkgo.timeout="+(testPatience*time.Duration(len(b))).String(),
		"--ginkgo.json-report="+name+".json", "--ginkgo.focus="+b.focus())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start e2e.test: %w", err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }() // a failed test is an exit code like a crash: the report tells
	select {
	case <-ended:
	case <-ctx.Done():
		interrupt(cmd.Process.Pid)
		select {
		case <-ended:
		case <-time.After(interruptPatience):
			cmd.Process.Kill()
			<-ended
		}
	}
	content, err := os.ReadFile(name + ".log")
	return string(content), err
}

// interrupt is a ^C for a process and its children: where it runs on a test host, the process is nsenter.
func interrupt(pid int) {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for child := range strings.FieldsSeq(string(children)) {
		if id, err := strconv.Atoi(child); err == nil {
			syscall.Kill(id, syscall.SIGINT)
		}
	}
	if len(children) == 0 {
		syscall.Kill(pid, syscall.SIGINT)
	}
}

func readReports(path string) (types.SpecReports, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var suites []types.Report
	if err := json.Unmarshal(content, &suites); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var all types.SpecReports
	for _, s := range suites {
		all = append(all, s.SpecReports...)
	}
	return all, nil
}

func lost(t *results.Test, why string) types.SpecReport {
	return types.SpecReport{LeafNodeText: t.Name, LeafNodeType: types.NodeTypeIt, State: types.SpecStateFailed, Failure: types.Failure{Message: why}}
}

// record takes the verdicts over, and returns the tests that have none yet.
func (r *runner) record(ctx context.Context, b batch, reports types.SpecReports) (batch, error) {
	byName := map[string]types.SpecReport{}
	setUp := "" // why no test could run
	for _, report := range reports {
		if report.LeafNodeType.Is(types.NodeTypeIt) {
			byName[report.FullText()] = report
		} else if report.Failed() {
			setUp = firstLine(report.FailureMessage())
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var rest batch
	finished := 0
	for _, t := range b {
		report, ok := byName[t.Name]
		v := verdict(report, setUp)
		if ctx.Err() != nil && v != results.Passed && v != results.Skipped || !ok && setUp == "" && len(byName) > 0 {
			rest = append(rest, t) // interrupted
			continue
		}
		if !ok {
			report = lost(t, "the suite could not be set up: "+setUp)
			if setUp == "" {
				report = lost(t, "e2e.test does not know this test")
			}
		}
		finished++
		r.take(t, report, setUp)
	}
	if finished == 0 && ctx.Err() == nil && len(rest) > 0 {
		r.take(rest[0], lost(rest[0], "e2e.test ended before this test did"), "")
		rest = rest[1:]
	}
	return rest, r.config.Save()
}

func verdict(report types.SpecReport, setUp string) results.State {
	switch {
	case report.State.Is(types.SpecStatePassed):
		return results.Passed
	case report.State.Is(types.SpecStateSkipped) && setUp == "" && report.Failure.Message != "":
		return results.Skipped
	default:
		return results.Failed
	}
}

func (r *runner) take(t *results.Test, report types.SpecReport, setUp string) {
	t.State = verdict(report, setUp)
	t.Seconds = float64(report.RunTime.Round(100*time.Millisecond)) / float64(time.Second)
	t.Found = r.config.Found
	t.Date = time.Now().UTC().Format(time.DateTime)
	t.Runs++
	t.Failure = ""
	if t.State != results.Passed {
		t.Failure = firstLine(report.FailureMessage())
	}
	if t.State == results.Failed {
		t.Failures++
	}
	if t.Failures > 0 && t.State == results.Passed {
		t.State = results.Failed
		t.Failure = "flaky: it passed this time"
	}
	r.reports = append(r.reports, report)
	r.writeLog(t, report)
	r.progress.finished(t)
}

func (r *runner) writeLog(t *results.Test, report types.SpecReport) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s in %.1f s\n\n", t.Name, t.State, t.Seconds)
	if message := report.FailureMessage(); message != "" {
		fmt.Fprintf(&b, "%s\n%s\n\n", message, report.FailureLocation())
	}
	b.WriteString(report.CapturedGinkgoWriterOutput)
	b.WriteString(report.CapturedStdOutErr)
	path := filepath.Join(r.config.OutputDir, "logs", LogName(t.Name))
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		r.config.Say("%v", err)
	}
}

// LogName is the file name of a test's log.
func LogName(test string) string {
	clean := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' {
			return c
		}
		return '_'
	}, test)
	return clean[:min(len(clean), 200)] + ".log"
}

func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	const most = 300
	if len(line) > most {
		line = strings.ToValidUTF8(line[:most], "") + "..."
	}
	return line
}

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}
