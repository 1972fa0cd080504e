// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-k8s/skiff/server"
)

func newSnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Save the whole cluster in a file, and restore it",
		Long: `Save the whole cluster in a file, and restore it. A snapshot has the database, the keys and the settings of the cluster: all
that its servers know. What pods have written into volumes is not in it. Whoever has the file has the cluster.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSnapshotSave(), newSnapshotRestore())
	return cmd
}

func newSnapshotSave() *cobra.Command {
	var m memberCommands
	cmd := &cobra.Command{
		Use:   "save FILE",
		Short: "Save the cluster in a file, while it runs",
		Long: `Save the cluster in a file, while it runs: everything that was acknowledged before. FILE is replaced when the snapshot is
whole, and not before. It is a tar archive, compressed by zstd; the file db in it has the form of etcd's own snapshots.`,
		Example: "  skiff snapshot save /backup/cluster-$(date +%F).tar.zst",
		Args:    oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			size, err := m.save(cmd.Context(), args[0], cmd.ErrOrStderr())
			if err != nil {
				return fmt.Errorf("save the cluster: %w", err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "saved the cluster in %s (%s); keep it as you keep keys\n", args[0], megabytes(size))
			return nil
		},
	}
	kubeconfigFlag(cmd.Flags(), &m.kubeconfig)
	return cmd
}

func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("which file?")
	}
	return nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// save writes a snapshot beside the file, and puts it in its place when it is whole.
func (m *memberCommands) save(ctx context.Context, file string, say io.Writer) (size int64, err error) {
	answer, err := m.request(ctx, http.MethodGet, server.SnapshotPath)
	if err != nil {
		return 0, err
	}
	defer answer.Close()
	part, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-") // which only the user can read
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part.Name())
		}
	}()
	size, err = io.Copy(io.MultiWriter(part, &progress{out: say, began: time.Now()}), answer)
	if err == nil {
		err = part.Sync()
	}
	if err = errors.Join(err, part.Close()); err != nil {
		return size, err
	}
	return size, os.Rename(part.Name(), file)
}

// progress says every second how much was written.
type progress struct {
	out   io.Writer
	began time.Time
	said  int // seconds
	size  int64
}

func (p *progress) Write(data []byte) (int, error) {
	p.size += int64(len(data))
	if passed := int(time.Since(p.began).Seconds()); passed > p.said {
		p.said = passed
		fmt.Fprintf(p.out, "%s so far\n", megabytes(p.size))
	}
	return len(data), nil
}

func newSnapshotRestore() *cobra.Command {
	m := &machine{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make this machine the only server of the cluster that a file has",
		Long: `Make this machine the only server of the cluster that a file of skiff snapshot save has. No server may run here, and there
must be no data of one (skiff uninstall removes it). Then skiff server starts it, and further servers can join. What was
written after the snapshot is lost. No other server of this cluster may run, or ever be started again with its old data: skiff
uninstall, there, takes it away. Nodes that find the server at its old address come back by themselves.`,
		Args: oneFile,
	}
	m.addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		in, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer in.Close()
		_, cfg, err := m.open(cmd)
		if err != nil {
			return err
		}
		if err := cfg.RestoreSnapshot(in); err != nil {
			return err
		}
		m.say("restored the cluster of %s (skiff server starts it)", args[0])
		return nil
	}
	return cmd
}
