// SPDX-License-Identifier: Apache-2.0

// Command skiff is a whole Kubernetes in one process. `skiff --help` lists what it can do.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "skiff:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "skiff",
		Short: "A whole Kubernetes in one small process",
		Long: `Skiff is a whole Kubernetes in one small process.

  sudo skiff server                         start a cluster of one node on this machine
  export KUBECONFIG=/etc/skiff/skiff.yaml   the administrator's credentials
  skiff kubectl get nodes                   use it; a kubectl of your own does the same`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServerCommand(), newKubectlCommand(), newVersionCommand())
	return root
}
