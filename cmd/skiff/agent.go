// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/agent/join"
	"github.com/skiff-k8s/skiff/server"
)

func newAgentCommand() *cobra.Command {
	s := newSettings()
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Make this machine a node of a cluster that has its server elsewhere",
		Long: `Make this machine a node of a cluster that has its server elsewhere, until it is told to end by SIGTERM or ^C.
Pods go on running then, and the next start takes them over; skiff stop ends them too.

The command with its token is what skiff token create prints on a server. The token is needed once: then the
machine has a certificate of its own, which it renews. It calls the servers, at their port 6443; they never call it.

Every flag can also be a line of ` + configFile + ` ("node-name: alpha"; lists as YAML lists) or an
environment variable (SKIFF_NODE_NAME). A flag wins over the environment, which wins over the file.`,
		Args: noArguments,
	}
	s.addAgentFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(cmd.Flags()); err != nil {
			return err
		}
		s.agent.NetworkSet, s.agent.Node.Flags = cmd.Flags().Changed("network"), shown(cmd.Flags())
		return runAgent(cmd, s)
	}
	return cmd
}

func defaultAgent() join.Config {
	like := server.Default()
	return join.Config{DataDir: like.DataDir, StateDir: like.StateDir, Node: agent.DefaultSettings()}
}

func agentFlags(fs *pflag.FlagSet, cfg *join.Config) {
	fs.StringVar(&cfg.Server, "server", "", "a server of the cluster, like https://192.0.2.1:6443; others are learnt from it")
	fs.StringVar(&cfg.Token, "token", "", "what skiff token create has printed; needed to join, and not any more then")
	fs.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "what must survive: certificates, images")
	fs.StringVar(&cfg.StateDir, "state-dir", cfg.StateDir, "what ends with the machine's uptime: sockets, mounts")
	fs.StringVar(&cfg.NodeName, "node-name", "", "name of this machine's Node (default: the host name)")
	nodeIPVar(fs, &cfg.NodeIP, &cfg.NodeIP2)
	nodeFlags(fs, &cfg.Node)
}

func runAgent(cmd *cobra.Command, s *settings) error {
	cfg := s.agent
	if os.Geteuid() != 0 {
		return errors.New("a node needs root (use sudo)")
	}
	if err := agent.Identify(&cfg.NodeName, &cfg.NodeIP); err != nil {
		return err
	}
	if err := agent.CheckFamilies(cfg.NodeIP, cfg.NodeIP2); err != nil {
		return err
	}
	if err := cfg.Node.Check(); err != nil {
		return err
	}
	ctx, err := s.logs.start(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	collectSeldom()
	cfg.Started = processStart()
	out := cmd.OutOrStdout()
	greet(out)
	cfg.Progress = func(step join.Step, after time.Duration) {
		tellAgent(out, &cfg, step, after)
		if step == join.StepNode {
			started(ctx)
		}
	}
	node, err := join.New(ctx, cfg)
	if err != nil {
		return err
	}
	return runUntilTold(ctx, out, node.Run)
}

func tellAgent(out io.Writer, cfg *join.Config, step join.Step, after time.Duration) {
	what := map[join.Step]string{
		join.StepWaiting: "no server answers, waiting for one",
		join.StepClock:   "the clocks of this machine and of the server differ, waiting until one is set",
		join.StepJoined:  "joined the cluster as " + cfg.NodeName,
		join.StepRuntime: "container runtime is ready",
		join.StepNode:    fmt.Sprintf("node %s is Ready", cfg.NodeName),
	}[step]
	fmt.Fprintf(out, "%6.1f s  %s\n", after.Seconds(), what)
}
