// SPDX-License-Identifier: Apache-2.0

// Command bench measures a whole Skiff: how long it takes to start, what it costs when nothing happens, how
// fast the API answers and pods start.
//
// It runs the built binary on test hosts of its own (package testhost), so nothing outside is touched and
// no network is needed, and prints the figures next to their budgets. What it prints is true for the machine
// it ran on, and for how busy that was. It reads /proc and the API like any client; it knows nothing of
// Skiff's inside.
//
//	make bench                          all figures
//	go run ./bench --runs 1 --seconds 5 a quick look, after make build
//	go run ./bench --deployments 1000   many Deployments, on simulated nodes
//	go run ./bench --api 5000           requests to the API, beside a bare HTTP server with etcd
//	go run ./bench --services 0,1000    Services, with so many others there, and names
//	go run ./bench --gateway            requests through a Gateway, beside a bare reverse proxy
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/pflag"
)

// options are what can be asked for on the command line.
type options struct {
	binary      string
	runs        int
	seconds     int
	settle      int
	save        bool
	log         string
	profile     string
	idle        bool
	deployments int
	api         int
	apiSeconds  int
	bare        string
	node        bool
	singles     int
	burst       int
	fleet       int
	services    []int
	gateway     bool
	proxyMode   string
}

func main() {
	o := options{}
	fs := pflag.NewFlagSet("bench", pflag.ContinueOnError)
	fs.StringVar(&o.binary, "binary", "bin/skiff", "the skiff to measure")
	fs.IntVar(&o.runs, "runs", 5, "how often to start a server, and a pod; the median counts")
	fs.IntVar(&o.seconds, "seconds", 60, "how long to watch the idle server")
	fs.IntVar(&o.settle, "settle", 15, "seconds between the Ready node and the watch of the idle server")
	fs.BoolVar(&o.idle, "only-idle", false, "after the starts, watch the idle server and nothing else")
	fs.IntVar(&o.deployments, "deployments", 0, "measure controllers with so many Deployments on simulated nodes, and nothing else")
	fs.IntVar(&o.api, "api", 0, "measure the API server with so many pods, such as 5000, and nothing else")
	fs.IntVar(&o.apiSeconds, "api-seconds", 5, "how long to ask for each of its figures")
	fs.StringVar(&o.bare, "bare", "", "be the server that the API server is measured beside, at this address")
	_ = fs.MarkHidden("bare")
	fs.IntSliceVar(&o.services, "services", nil, "measure Services with so many others there, such as 0,100,1000,10000, and nothing else")
	fs.BoolVar(&o.gateway, "gateway", false, "measure requests through a Gateway, and nothing else")
	fs.StringVar(&o.proxyMode, "proxy-mode", "iptables", "what enforces Services then: iptables or nftables")
	fs.BoolVar(&o.node, "only-node", false, "after the starts, measure pods and nothing else")
	fs.IntVar(&o.singles, "singles", 30, "how many pods to start one after the other")
	fs.IntVar(&o.burst, "burst", 50, "how many pods to start at once")
	fs.IntVar(&o.fleet, "fleet", 0, "how many pods to watch at rest, such as 100 (default: none)")
	fs.BoolVar(&o.save, "save", false, "write the figures to bench/results")
	fs.StringVar(&o.log, "log", "", "file for the servers' output (default: none)")
	fs.StringVar(&o.profile, "profile", "", "directory for CPU and heap profiles of the servers (default: none)")
	if err := fs.Parse(os.Args[1:]); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if o.bare != "" {
		return bare(o.bare)
	}
	if o.deployments < 0 || o.deployments > 10000 || o.api < 0 || o.api > 50000 || o.apiSeconds < 1 || o.apiSeconds > 600 {
		return errors.New("--deployments must be 0 to 10000, --api 0 to 50000, --api-seconds 1 to 600")
	}
	if len(o.services) > 0 && (slices.Min(o.services) < 0 || slices.Max(o.services) > 20000) {
		return errors.New("--services must be 0 to 20000 each")
	}
	if o.runs < 1 || o.runs > 100 || o.seconds < 1 || o.seconds > 3600 || o.settle < 0 || o.settle > 600 ||
		o.singles < 1 || o.singles > 1000 || o.burst < 0 || o.burst > 105 || o.fleet < 0 || o.fleet > 105 {
		return errors.New("--runs must be 1 to 100, --seconds 1 to 3600, --settle 0 to 600, --singles 1 to 1000, --burst and --fleet 0 to 105")
	}
	var err error
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	info, err := os.Stat(o.binary)
	if err != nil {
		return fmt.Errorf("%w (run make build)", err)
	}
	results := &results{Taken: time.Now().UTC(), Machine: machine()}
	results.add("binary", "binary on disk", float64(info.Size())/mega, "MB", noBudget)
	take := measure
	switch {
	case o.deployments > 0:
		take = scale
	case o.api > 0:
		take = api
	case len(o.services) > 0:
		take = services
	case o.gateway:
		take = gateway
	}
	err = take(ctx, o, results)
	results.print(os.Stdout) // those that there are
	if err != nil {
		return err
	}
	if o.save {
		return results.save(ctx, "bench/results")
	}
	return nil
}
