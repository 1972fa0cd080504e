// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/cmd/skiff/kubectl"
	"github.com/skiff-k8s/skiff/server"
)

// newKubectlCommand is a stub in the command tree: kubectl's own tree of commands is built when it is called
// for, because that takes longer than the start of a server may.
func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl",
		Short:              "Run kubectl against the cluster",
		DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			signal.Reset() // ^C ends kubectl where it stands, but for what it does about it itself
			kubectl.Run(server.Default().Kubeconfig, args)
		},
	}
}
