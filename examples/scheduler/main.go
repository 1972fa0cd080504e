// SPDX-License-Identifier: Apache-2.0

// Command scheduler is a scheduler of one's own: Skiff's, with one more plugin. It runs against any cluster, and takes the pods that name
// it in their schedulerName.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins"
)

func main() {
	kubeconfig := flag.String("kubeconfig", os.Getenv("KUBECONFIG"), "file that says how to reach the cluster")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err == nil {
		err = run(ctx, config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run schedules until ctx ends.
func run(ctx context.Context, config *restclient.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	defer factory.Shutdown()
	s, err := scheduler.New(scheduler.Config{Profiles: []scheduler.Profile{{
		SchedulerName: "battery-scheduler",
		Plugins:       append(plugins.Default(), plugins.Entry{Name: "Battery", New: newBattery, Weight: 5}),
	}}}, client, factory, nil)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	factory.StartWithContext(ctx)
	return s.Run(ctx)
}

// chargeLabel is how full a node's battery is, in percent. A node without the label has mains.
const chargeLabel = "example.com/charge"

// battery keeps pods off nodes that are nearly empty, and prefers those that are fuller.
type battery struct{}

func newBattery(*framework.Handle) (framework.Plugin, error) { return battery{}, nil }

func (battery) Name() string { return "Battery" }

var low = framework.RejectForGood("node(s) had a low battery")

// Filter implements framework.Filter.
func (battery) Filter(_ framework.State, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if charge(node) < 20 {
		return low
	}
	return nil
}

// Score implements framework.Scorer.
func (battery) Score(_ framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	return charge(node)
}

// Hints implements framework.Hinter: a pod that was rejected is worth another try when a node comes or is charged.
func (battery) Hints() []framework.Hint {
	return []framework.Hint{{Kind: framework.Node, Action: framework.Add | framework.UpdateNodeLabel}}
}

// Sign implements framework.Local: the pod does not matter, so what the plugin says of a node is kept until the node changes.
func (battery) Sign(b []byte, _ *framework.PodInfo) ([]byte, bool) { return b, true }

func charge(node *framework.NodeInfo) int64 {
	percent, err := strconv.ParseInt(node.Node.Labels[chargeLabel], 10, 64)
	if err != nil {
		return framework.MaxScore
	}
	return min(max(percent, 0), framework.MaxScore)
}
