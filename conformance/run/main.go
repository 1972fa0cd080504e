// SPDX-License-Identifier: Apache-2.0

// Command run runs Kubernetes' conformance suite against Skiff on test hosts, or against the cluster of a
// kubeconfig. It has to be started in the directory of this module.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/conformance/cluster"
	"github.com/skiff-k8s/skiff/conformance/images"
	"github.com/skiff-k8s/skiff/conformance/programs"
	"github.com/skiff-k8s/skiff/conformance/results"
	"github.com/skiff-k8s/skiff/conformance/suite"
)

type options struct {
	focus, skip string
	smoke       bool
	all         bool
	unpassed    bool
	repeat      int
	parallel    int
	kubeconfig  string
	binary      string
	cache       string
	output      string
	results     string
	fresh       bool
	prepareOnly bool
	serverFlags string
	agents      int
	dualStack   bool
	zones       int
	proxyMode   string
	storage     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, parse()); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	userCache, _ := os.UserCacheDir()
	flag.StringVar(&o.focus, "focus", "", "run the tests whose names this regular expression matches")
	flag.StringVar(&o.skip, "skip", "", "but not those that this one matches")
	flag.BoolVar(&o.smoke, "smoke", false, "run the tests that smoke.txt names")
	flag.BoolVar(&o.all, "all", false, "run tests beyond conformance, with verdicts of their own; needs -focus")
	flag.BoolVar(&o.unpassed, "unpassed", false, "run only what is not known to pass")
	flag.IntVar(&o.repeat, "repeat", 1, "run each test that many times")
	flag.IntVar(&o.parallel, "parallel", 3, "how many tests run at once")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "test this cluster and not one of its own")
	flag.StringVar(&o.binary, "binary", "../bin/skiff", "the skiff to test")
	flag.StringVar(&o.cache, "cache", filepath.Join(userCache, "skiff", "conformance"), "directory for what takes long to make")
	flag.StringVar(&o.output, "output", "", "directory for logs (default: run in the cache)")
	flag.StringVar(&o.results, "results", "", "file with the verdicts (default: results.json, or beyond.json with -all; with -proxy-mode in the output directory)")
	flag.BoolVar(&o.fresh, "fresh", false, "do not continue an interrupted run")
	flag.BoolVar(&o.prepareOnly, "prepare", false, "build programs and images, and run nothing")
	flag.StringVar(&o.serverFlags, "server-flags", "", "more flags for skiff server")
	flag.IntVar(&o.agents, "agents", 1, "how many nodes there are besides the server's")
	flag.BoolVar(&o.dualStack, "dual-stack", false, "give all things addresses of both families")
	flag.IntVar(&o.zones, "zones", 0, "in how many zones the nodes are; 0 for none")
	flag.StringVar(&o.proxyMode, "proxy-mode", "", "another way of the nodes to get Services to pods; the verdicts are not kept with those of the default")
	flag.BoolVar(&o.storage, "storage", false, "have what tests of storage need: CSI's sidecars, the controller of VolumeSnapshots, and crictl on the nodes")
	flag.Parse()
	kind, verdicts := "run", "results.json"
	if o.all {
		kind, verdicts = "run-beyond", "beyond.json"
	}
	if o.proxyMode != "" {
		kind += "-" + o.proxyMode
	}
	o.output = cmp.Or(o.output, filepath.Join(o.cache, kind))
	if o.proxyMode != "" {
		verdicts = filepath.Join(o.output, verdicts)
	}
	o.results = cmp.Or(o.results, verdicts)
	return o
}

func say(format string, args ...any) {
	fmt.Printf(time.Now().Format("15:04:05 ")+format+"\n", args...)
}

func run(ctx context.Context, o options) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	built, err := programs.Build(ctx, dir, o.cache, programs.Suite, say)
	if err != nil {
		return err
	}
	archive := ""
	if o.kubeconfig == "" || o.prepareOnly {
		if archive, err = images.Archive(ctx, dir, o.cache, o.storage, say); err != nil {
			return err
		}
	}
	if o.prepareOnly {
		return nil
	}
	plan, err := newPlan(ctx, o, built["e2e.test"])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.output, 0o755); err != nil {
		return err
	}
	testee, err := start(ctx, o, archive)
	if err != nil {
		return err
	}
	found, err := ask(ctx, testee, built["kubectl"])
	if err == nil {
		err = checkNodes(ctx, testee, built["kubectl"])
	}
	if err != nil {
		return errors.Join(err, testee.Close())
	}
	runErr := plan.run(ctx, suite.Config{
		E2E: built["e2e.test"], Kubectl: built["kubectl"], Cluster: testee, OutputDir: o.output, Parallel: o.parallel, Found: found, Say: say,
	})
	return errors.Join(runErr, testee.Close())
}

func start(ctx context.Context, o options, archive string) (cluster.Cluster, error) {
	if o.kubeconfig != "" {
		return cluster.Existing(o.kubeconfig)
	}
	binary, err := filepath.Abs(o.binary)
	if err != nil {
		return nil, err
	}
	config := cluster.Config{
		Binary: binary, Archive: archive, Agents: o.agents, Registry: true, LogDir: o.output, Flags: strings.Fields(o.serverFlags), DualStack: o.dualStack, Zones: o.zones, ProxyMode: o.proxyMode, Say: say,
	}
	if o.storage {
		if err := addStorage(ctx, o, &config); err != nil {
			return nil, err
		}
	}
	say("starting Skiff on %d test hosts; their logs are in %s", 1+o.agents, o.output)
	return cluster.Start(ctx, config)
}

func addStorage(ctx context.Context, o options, to *cluster.Config) error {
	tools, err := programs.Build(ctx, programs.NodeToolsModule, o.cache, programs.NodeTools, say)
	if err != nil {
		return err
	}
	to.Tools = filepath.Dir(tools["crictl"])
	to.Manifests, err = snapshotManifests(ctx)
	return err
}

// snapshotManifests are what upstream's release of the controller is installed from.
func snapshotManifests(ctx context.Context) ([]string, error) {
	var manifests []string
	for _, from := range []struct{ module, files string }{
		{"github.com/kubernetes-csi/external-snapshotter/client/v8", "config/crd/snapshot.storage.k8s.io_*.yaml"},
		{"github.com/kubernetes-csi/external-snapshotter/v8", "deploy/kubernetes/snapshot-controller/*-snapshot-controller.yaml"},
	} {
		dir, err := programs.ModuleDir(ctx, programs.CSIModule, from.module)
		if err != nil {
			return nil, err
		}
		files, err := filepath.Glob(filepath.Join(dir, from.files))
		if err != nil {
			return nil, err
		}
		manifests = append(manifests, files...)
	}
	return manifests, nil
}

// ask asks the cluster what it is.
func ask(ctx context.Context, c cluster.Cluster, kubectl string) (results.Found, error) {
	out, err := c.Command(ctx, kubectl, "--kubeconfig="+c.Kubeconfig(), "get", "--raw", "/version").Output()
	if err != nil {
		return results.Found{}, fmt.Errorf("ask the cluster for its version: %w", err)
	}
	var said struct{ GitVersion, GitCommit string }
	if err := json.Unmarshal(out, &said); err != nil {
		return results.Found{}, fmt.Errorf("ask the cluster for its version: %w", err)
	}
	return results.Found{Skiff: said.GitVersion, Commit: said.GitCommit}, nil
}

// checkNodes finds nodes on which nothing would start: the tests would wait for them for half an hour and not say why.
func checkNodes(ctx context.Context, c cluster.Cluster, kubectl string) error {
	out, err := c.Command(ctx, kubectl, "--kubeconfig="+c.Kubeconfig(), "get", "nodes", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("ask the cluster for its nodes: %w", err)
	}
	var nodes corev1.NodeList
	if err := json.Unmarshal(out, &nodes); err != nil {
		return fmt.Errorf("ask the cluster for its nodes: %w", err)
	}
	return pressed(nodes.Items)
}

// pressed says which nodes lack what, nil if none does.
func pressed(nodes []corev1.Node) error {
	var errs []error
	for _, n := range nodes {
		for _, c := range n.Status.Conditions {
			if c.Type != corev1.NodeReady && c.Status == corev1.ConditionTrue {
				errs = append(errs, fmt.Errorf("node %s: %s: %s (make room on the machine, then run again)", n.Name, c.Type, c.Message))
			}
		}
	}
	return errors.Join(errs...)
}

// testeeKey is a digest of what is tested: an interrupted run of something else is not continued.
func testeeKey(o options) (string, error) {
	if o.kubeconfig != "" {
		return filepath.Abs(o.kubeconfig)
	}
	return programs.Digest(o.binary)
}

// readResults reads what was known before, for exactly the tests that there are. Beyond conformance there are hundreds that nobody has chosen:
// only those that somebody has are kept.
func readResults(ctx context.Context, o options, e2e string) (*results.Results, error) {
	known, err := results.Read(o.results)
	if err != nil {
		return nil, err
	}
	list := suite.List
	if o.all {
		list = suite.ListOthers
	}
	tests, err := list(ctx, e2e)
	if err != nil {
		return nil, err
	}
	if o.all {
		chosen, err := regexp.Compile(cmp.Or(o.focus, "^$"))
		if err != nil {
			return nil, fmt.Errorf("understand FOCUS: %w", err)
		}
		tests = slices.DeleteFunc(tests, func(t results.Test) bool { return known.Get(t.Name) == nil && !chosen.MatchString(t.Name) })
	}
	known.Kubernetes = programs.Upstream
	known.Cover(tests)
	return known, nil
}
