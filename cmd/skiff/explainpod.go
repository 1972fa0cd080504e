// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/server"
)

func newExplainPodCommand() *cobra.Command {
	var kubeconfig, namespace string
	cmd := &cobra.Command{
		Use:   "explain-pod NAME",
		Short: "Say why a pod has no node, and what change would help",
		Long: `Say why a pod has no node: what the scheduler has against it on each node, and what change would help. The scheduler itself
is asked, so it needs the rights of an administrator.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := explainPod(cmd.Context(), kubeconfig, namespace, args[0])
			if err != nil {
				return err
			}
			printExplanation(cmd.OutOrStdout(), e)
			return nil
		},
	}
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "file that says how to reach the cluster (default: $KUBECONFIG, ~/.kube/config or "+server.Default().Kubeconfig+")")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "the pod's namespace (default: that of the kubeconfig)")
	return cmd
}

func explainPod(ctx context.Context, kubeconfig, namespace, name string) (*scheduler.Explanation, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	if _, err := os.Stat(server.Default().Kubeconfig); err == nil && os.Getenv("KUBECONFIG") == "" {
		rules.Precedence = append(rules.Precedence, server.Default().Kubeconfig)
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	if namespace == "" {
		if namespace, _, err = loader.Namespace(); err != nil {
			return nil, err
		}
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	raw, err := client.RESTClient().Get().AbsPath(scheduler.ExplainPath, namespace, name).DoRaw(ctx)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("pod %s/%s not found", namespace, name)
	}
	if err != nil {
		return nil, fmt.Errorf("ask about pod %s/%s: %w", namespace, name, err)
	}
	e := &scheduler.Explanation{}
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("read the scheduler's answer: %w", err)
	}
	return e, nil
}

func printExplanation(out io.Writer, e *scheduler.Explanation) {
	pod := e.Namespace + "/" + e.Name
	switch {
	case e.NodeMissing:
		fmt.Fprintf(out, "Pod %s is bound to node %s, and there is no such node.\n", pod, e.Node)
		return
	case e.Node != "":
		fmt.Fprintf(out, "Pod %s is on node %s.\n", pod, e.Node)
		return
	}
	fmt.Fprintf(out, "Pod %s has no node. %s\n", pod, situation(e))
	if e.Nominated != "" {
		fmt.Fprintf(out, "Room is kept for it on node %s.\n", e.Nominated)
	}
	if e.Condition != "" && e.State != "gated" {
		fmt.Fprintf(out, "The last attempt ended with: %s\n", e.Condition)
	}
	if len(e.Whole) > 0 {
		fmt.Fprintln(out, "\nWhatever the node:")
		for _, o := range e.Whole {
			fmt.Fprintf(out, "  %s (%s)%s\n", o.Reason, o.Plugin, prefixed("; to help: ", o.Help))
		}
	}
	if len(e.Nodes) == 0 {
		return
	}
	fmt.Fprintln(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tPLUGIN\tREASON\tWHAT WOULD HELP")
	for _, v := range alike(e.Nodes) {
		if len(v.Objections) == 0 {
			fmt.Fprintf(table, "%s\t-\tthe pod would fit\t\n", v.Node)
		}
		for i, o := range v.Objections {
			node := v.Node
			if i > 0 {
				node = ""
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", node, o.Plugin, o.Reason, o.Help)
		}
	}
	_ = table.Flush() // to a buffer or a terminal
	printPreemption(out, e.Preemption)
}

// enough nodes of a kind are shown; more say nothing more.
const enough = 5

// alike takes together nodes against which the same speaks, if there are many.
func alike(nodes []scheduler.Verdict) []scheduler.Verdict {
	kind := func(v *scheduler.Verdict) string {
		var b strings.Builder
		for _, o := range v.Objections {
			b.WriteString(o.Plugin + "\x00" + o.Reason + "\x00")
		}
		return b.String()
	}
	var shown []scheduler.Verdict
	count, last := make(map[string]int), make(map[string]int) // how many of a kind there are, and where the last one shown is
	for i := range nodes {
		k := kind(&nodes[i])
		if count[k]++; count[k] <= enough {
			last[k] = len(shown)
			shown = append(shown, nodes[i])
		}
	}
	for k, n := range count {
		if n > enough {
			shown[last[k]].Node = fmt.Sprintf("%s and %d more", shown[last[k]].Node, n-enough)
		}
	}
	return shown
}

func printPreemption(out io.Writer, p *scheduler.Preemption) {
	switch {
	case p == nil:
	case p.Leaving:
		fmt.Fprintf(out, "\nIt waits for these to be gone from %s: %s\n", p.Node, strings.Join(p.Victims, ", "))
	case p.Node == "":
		reason := strings.TrimPrefix(p.Reason, "preemption: ")
		if _, why, counted := strings.Cut(reason, " nodes are available: "); counted {
			reason = why
		}
		fmt.Fprintf(out, "\nIt cannot make room for itself: %s\n", reason)
	default:
		fmt.Fprintf(out, "\nIt would fit on %s if these went: %s\n", p.Node, strings.Join(p.Victims, ", "))
		if p.Violations > 0 {
			fmt.Fprintf(out, "That violates %d PodDisruptionBudgets.\n", p.Violations)
		}
	}
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// situation says what the scheduler does about the pod.
func situation(e *scheduler.Explanation) string {
	attempts := "It was tried once."
	if e.Attempts != 1 {
		attempts = fmt.Sprintf("It was tried %d times.", e.Attempts)
	}
	switch e.State {
	case "ended":
		return "It has ended, so it is not tried."
	case "deleted":
		return "It is being deleted, so it is not tried."
	case "binding":
		return fmt.Sprintf("It is going to be bound to node %s, once its volumes and devices are ready.", e.Binding)
	case "elsewhere":
		return "The scheduler of another server looks after it."
	case "in flight":
		return "It is being tried just now."
	case "":
		return fmt.Sprintf("Scheduler %q, which it asks for, has not looked at it: if there is none of that name, change spec.schedulerName.", e.Scheduler)
	case "backoff":
		return attempts + " The next attempt is at " + e.Until.Local().Format(time.TimeOnly) + "."
	case "unschedulable":
		return attempts + " It waits for a change in the cluster that may help."
	case "gated":
		return "It is held back and not tried."
	}
	if e.Attempts == 0 {
		return "It is about to be tried."
	}
	return strings.TrimSuffix(attempts, ".") + " and is about to be tried again."
}
