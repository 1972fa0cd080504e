// SPDX-License-Identifier: Apache-2.0

// Package kubectl is upstream's kubectl as a subcommand: its commands, flags, messages and exit codes.
package kubectl

import (
	"os"

	_ "k8s.io/client-go/plugin/pkg/client/auth" // what kubeconfigs may ask for
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	_ "github.com/skiff-k8s/skiff/cmd/skiff/kubectl/english" // before kubectl's packages set up their translations
)

// Run is kubectl's main: it ends the process if kubectl does not succeed. kubeconfig is used where the user
// names none and the default one of kubectl does not exist.
func Run(kubeconfig string, args []string) {
	if os.Getenv("KUBECONFIG") == "" && readable(kubeconfig) && !readable(os.ExpandEnv("$HOME/.kube/config")) {
		_ = os.Setenv("KUBECONFIG", kubeconfig)
	}
	os.Args = append([]string{"kubectl"}, args...)       // where it looks for plugins, and more
	_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) // a wrong value is told when flags are parsed
	util.CheckErr(cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()))
}

func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	_ = f.Close()
	return true
}
