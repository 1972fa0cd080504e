// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/server"
)

// stopPatience is how long a server may take to end when it is told to.
const stopPatience = 30 * time.Second

func newStopCommand() *cobra.Command {
	m := &machine{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "End the server or agent on this machine and all pods",
		Long: `End the server or agent on this machine and all pods, at once and with all that they run in: containers, mounts,
cgroups, the pod network and the rules for Services. It does so too when no server runs. The data stays, and
a server that starts again starts the pods again.`,
		Args: noArguments,
	}
	keepPods := cmd.Flags().Bool("keep-pods", false, "end the server or agent only; the next one takes the pods over")
	m.addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cfg, err := m.open(cmd)
		if err != nil {
			return err
		}
		claim, err := m.stop(ctx, cfg, !*keepPods)
		if err != nil {
			return err
		}
		claim.Release()
		return nil
	}
	return cmd
}

func newUninstallCommand() *cobra.Command {
	m := &machine{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the cluster from this machine, with all its data",
		Long: `Remove the cluster from this machine, with all its data: what skiff stop ends, and then the database, keys,
images, volumes and logs of pods, and the kubeconfig. The Node of an agent stays in its cluster until it is
deleted there. What you brought yourself stays: the program and
` + configFile + `.`,
		Args: noArguments,
	}
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	m.addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cfg, err := m.open(cmd)
		if err != nil {
			return err
		}
		if !*yes && !confirmed(cmd.InOrStdin(), cmd.OutOrStdout(), "This ends all pods on this machine and removes the cluster in "+cfg.DataDir+" for good.") {
			return errors.New("nothing was removed (answer yes, or call it with --yes)")
		}
		claim, err := m.stop(ctx, cfg, true)
		if err != nil {
			return err
		}
		defer claim.Release()
		return m.removeFiles(cfg)
	}
	return cmd
}

func confirmed(in io.Reader, out io.Writer, what string) bool {
	fmt.Fprintf(out, "%s\nType yes to go on: ", what)
	answer, _ := bufio.NewReader(in).ReadString('\n') // the end of the input is an answer too
	return strings.TrimSpace(answer) == "yes"
}

// machine is where a server runs or ran.
type machine struct {
	settings *settings
	dataDir  string
	out      io.Writer
}

func (m *machine) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&m.dataDir, "data-dir", "", "data directory of the server (default: as in the file with settings, or "+m.settings.server.DataDir+")")
	flags.StringVar(&m.settings.file, "config", configFile, "file with settings of the server; it need not exist")
	m.settings.logs.addFlags(flags)
}

// open finds out with which settings the server was last started.
func (m *machine) open(cmd *cobra.Command) (context.Context, server.Config, error) {
	m.out = cmd.OutOrStdout()
	required := cmd.Flags().Changed("config")
	all := pflag.NewFlagSet("server", pflag.ContinueOnError)
	given := *m.settings
	m.settings.addFlags(all) // which sets the defaults
	if err := all.Set("config", given.file); err != nil {
		return nil, server.Config{}, err
	}
	all.Lookup("config").Changed = required
	if err := m.settings.load(all); err != nil {
		return nil, server.Config{}, err
	}
	m.settings.logs = given.logs
	cfg := m.settings.server
	if m.dataDir != "" {
		cfg.DataDir = m.dataDir
	}
	if os.Geteuid() != 0 {
		return nil, cfg, errors.New("this needs root (use sudo)")
	}
	ctx, err := m.settings.logs.start(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return nil, cfg, err
	}
	cfg, err = cfg.LastRun()
	return ctx, cfg, err
}

func (m *machine) say(format string, args ...any) { fmt.Fprintf(m.out, format+"\n", args...) }

// stop ends the server, and the pods if they are to end too. No server can start until the claim that it
// returns is released.
func (m *machine) stop(ctx context.Context, cfg server.Config, pods bool) (*agent.Claim, error) {
	pid, err := agent.Running(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("find the server: %w", err)
	}
	if pid == 0 {
		m.say("no server or agent runs")
	} else if err := m.end(ctx, cfg, pid); err != nil {
		return nil, err
	}
	claim, err := agent.TakeClaim(cfg.StateDir)
	if err != nil || !pods || cfg.NoNode {
		return claim, err
	}
	if err := cfg.Teardown(m.say).Pods(ctx); err != nil {
		claim.Release()
		return nil, err
	}
	return claim, nil
}

// end tells a server to end and, if that does not help, ends it.
func (m *machine) end(ctx context.Context, cfg server.Config, pid int) error {
	if pid < 0 {
		return fmt.Errorf("a process holds %s but has not said its process ID (try again)", cfg.StateDir)
	}
	patient, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	if err := agent.AwaitEnd(patient, cfg.StateDir); err == nil {
		m.say("ended process %d", pid)
		return nil
	} else if ctx.Err() != nil {
		return err
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	m.say("killed process %d, which did not end within %s", pid, stopPatience)
	patient, cancel = context.WithTimeout(ctx, stopPatience)
	defer cancel()
	return agent.AwaitEnd(patient, cfg.StateDir)
}

// removeFiles removes all that a server has put on disk.
func (m *machine) removeFiles(cfg server.Config) error {
	var errs []error
	if !cfg.NoNode {
		errs = append(errs, cfg.Teardown(m.say).Files())
	}
	errs = append(errs, agent.RemoveDir(cfg.DataDir, m.say), agent.RemoveDir(cfg.StateDir, m.say))
	err := os.Remove(cfg.Kubeconfig)
	if err == nil {
		m.say("removed %s", cfg.Kubeconfig)
	} else if !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	dir := filepath.Dir(cfg.Kubeconfig)
	if os.Remove(dir) == nil { // only if there is nothing else in it
		m.say("removed %s", dir)
	} else if _, err := os.Stat(m.settings.file); err == nil {
		m.say("kept %s, which is yours", m.settings.file)
	}
	return errors.Join(errs...)
}
