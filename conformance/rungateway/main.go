// SPDX-License-Identifier: Apache-2.0

// Command rungateway runs the conformance suite of the Gateway API against Skiff on a test host, and writes the report that
// the Gateway API wants of implementations. It has to be started in the directory of this module.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/skiff-k8s/skiff/conformance/cluster"
	"github.com/skiff-k8s/skiff/conformance/images"
	"github.com/skiff-k8s/skiff/conformance/programs"
)

// module has what is run, seen from this one.
const module = "gateway"

var built = []programs.Program{
	{Name: "gateway.test", Package: "github.com/skiff-k8s/skiff/conformance/gateway", Test: true},
	{Name: "echo-basic", Package: "sigs.k8s.io/gateway-api/conformance/echo-basic"},
	{Name: "coredns", Package: "github.com/skiff-k8s/skiff/conformance/gateway/coredns"},
}

type options struct {
	run, report, binary, cache, output, version string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	userCache, _ := os.UserCacheDir()
	flag.StringVar(&o.run, "run", "", "run only the test with this name, and write no report")
	flag.StringVar(&o.report, "report", "gateway-report.yaml", "the report")
	flag.StringVar(&o.binary, "binary", "../bin/skiff", "the skiff to test")
	flag.StringVar(&o.version, "version", "", "the version that the report names")
	flag.StringVar(&o.cache, "cache", filepath.Join(userCache, "skiff", "conformance"), "directory for what takes long to make")
	flag.StringVar(&o.output, "output", "", "directory for logs (default: run-gateway in the cache)")
	flag.Parse()
	if o.output == "" {
		o.output = filepath.Join(o.cache, "run-gateway")
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "gateway conformance:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...) }

func run(ctx context.Context, o options) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	ready, err := programs.Build(ctx, filepath.Join(dir, module), o.cache, built, say)
	if err != nil {
		return err
	}
	archive, err := images.GatewayArchive(ctx, o.cache, ready)
	if err != nil {
		return err
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.output, 0o755); err != nil {
		return err
	}
	say("starting Skiff on a test host; its log is in %s", o.output)
	testee, err := cluster.Start(ctx, cluster.Config{Binary: binary, Archive: archive, LogDir: o.output, Say: say})
	if err != nil {
		return err
	}
	return errors.Join(test(ctx, o, testee, ready["gateway.test"]), testee.Close())
}

// test runs the suite in the cluster. What it says goes into a file, and its verdicts to the terminal.
func test(ctx context.Context, o options, testee cluster.Cluster, suite string) error {
	report, err := filepath.Abs(filepath.Join(o.output, "report.yaml"))
	if err != nil {
		return err
	}
	if err := os.Remove(report); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	args := []string{
		"-test.v", "-test.timeout=90m", "-gateway-class=skiff", "-conformance-profiles=GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS",
		// Tests of HTTPRoutes and GRPCRoutes use one listener without hostnames, where only the older kind may be attached.
		"-disable-parallel-tests",
		"-usable-address=10.43.77.77",   // of the Service range
		"-unusable-address=192.0.2.254", // neither there nor a node's
		"-organization=skiff-k8s", "-project=skiff", "-url=https://github.com/skiff-k8s/skiff", "-version=" + o.version,
		"-contact=https://github.com/skiff-k8s/skiff/issues",
	}
	if o.run != "" {
		args = append(args, "-run-test="+o.run)
	} else {
		args = append(args, "-report-output="+report)
	}
	log, err := os.Create(filepath.Join(o.output, "suite.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := testee.Command(ctx, suite, args...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "KUBECONFIG="+testee.Kubeconfig())
	verdicts := &verdicts{to: log}
	cmd.Stdout, cmd.Stderr = verdicts, verdicts
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("the suite (%s): %w", log.Name(), err)
	}
	if o.run == "" {
		err = errors.Join(err, publish(report, o.report))
	}
	return err
}

// publish keeps a report that says something: a suite that did not get to its tests writes an empty one.
func publish(report, to string) error {
	content, err := os.ReadFile(report)
	if err != nil || bytes.Contains(content, []byte("profiles: null")) {
		return err
	}
	return os.WriteFile(to, append([]byte(header), content...), 0o644)
}

const header = `# SPDX-License-Identifier: Apache-2.0
# Made by make conformance-gateway. Do not edit.
`
