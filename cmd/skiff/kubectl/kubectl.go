// SPDX-License-Identifier: Apache-2.0

// Package kubectl is upstream's kubectl as a subcommand.
package kubectl

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"

	_ "github.com/skiff-k8s/skiff/cmd/skiff/kubectl/english" // before kubectl's packages set up their translations
)

// New returns the kubectl command. kubeconfig is used where the user names none and the default one of
// kubectl does not exist.
func New(kubeconfig string) *cobra.Command {
	// kubectl looks at os.Args for plugins, where "skiff" stands in front of its own name.
	args := os.Args
	if len(args) > 1 && args[1] == "kubectl" {
		args = args[1:]
	}
	if os.Getenv("KUBECONFIG") == "" && readable(kubeconfig) && !readable(os.ExpandEnv("$HOME/.kube/config")) {
		_ = os.Setenv("KUBECONFIG", kubeconfig)
	}
	c := cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     args,
		ConfigFlags:   genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50),
		IOStreams:     genericclioptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	c.Use = "kubectl"
	return c
}

func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}
