// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command containerd-shim-runc-v2 is containerd's shim, of the containerd version that the server links: the
// process that keeps a pod's containers while the server comes and goes.
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task/plugin"
	"github.com/containerd/containerd/v2/pkg/shim"
)

func main() {
	shim.RunShim(context.Background(), manager.NewShimManager("io.containerd.runc.v2"))
}
