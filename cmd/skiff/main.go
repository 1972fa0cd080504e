// SPDX-License-Identifier: Apache-2.0

// Command skiff is a whole Kubernetes in one process. `skiff --help` lists what it can do.
//
// It exits with 0, with 2 if it was called in a way that makes no sense, and with 1 if anything else went
// wrong. Then one line on standard error says what, and what to do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, newCommand(), os.Stderr)
	stop()
	os.Exit(code)
}

// run executes a command and returns the exit code.
func run(ctx context.Context, cmd *cobra.Command, stderr io.Writer) int {
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "skiff:", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	var usage usageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "skiff",
		Short: "A whole Kubernetes in one small process",
		Long: `Skiff is a whole Kubernetes in one small process.

  sudo skiff server                         start a cluster of one node on this machine
  export KUBECONFIG=/etc/skiff/skiff.yaml   the administrator's credentials
  skiff kubectl get nodes                   use it; a kubectl of your own does the same
  skiff token create                        print the command that makes another machine a node
  sudo skiff stop                           end it with all pods; a new start goes on from there
  sudo skiff uninstall                      remove it with all its data`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newServerCommand(), newAgentCommand(), newTokenCommand(), newMembersCommand(), newSnapshotCommand(), newStopCommand(), newUninstallCommand(), newKubectlCommand(), newExplainPodCommand(), newVersionCommand())
	return root
}
