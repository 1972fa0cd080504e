// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command containerd-shim-runc-v2 is containerd's shim, of the containerd version that the server links: the
// process that keeps a pod's containers while the server comes and goes.
//
// It differs from containerd's own in one thing: that collects its garbage every thirty seconds, whether or not anything
// has happened, which costs 100 pods at rest three percent of a core. This one does so when it comes to rest (rest.go). The
// build takes the other's way out of containerd's code (../build).
package main

import (
	"context"
	"os"
	"runtime"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

func main() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2) // fewer threads, and stacks for them
	}
	rest := newRest()
	registry.Register(&plugin.Registration{
		Type: plugins.InternalPlugin, ID: "rest",
		InitFn: func(*plugin.InitContext) (any, error) { return rest, nil },
	})
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
