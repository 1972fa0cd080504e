// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/version"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of Skiff and of the Kubernetes it serves",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			info := version.Info()
			fmt.Fprintf(cmd.OutOrStdout(), "skiff %s (Kubernetes v%s, %s, %s)\n", version.Skiff, version.Kubernetes, info.GoVersion, info.Platform)
		},
	}
}
