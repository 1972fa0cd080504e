// SPDX-License-Identifier: Apache-2.0

package main

import (
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
		RunE: func(cmd *cobra.Command, args []string) error {
			k := kubectl.New(server.Default().Kubeconfig)
			k.SetArgs(args)
			return k.ExecuteContext(cmd.Context())
		},
	}
}
