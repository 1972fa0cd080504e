// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	restclient "k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/datastore"
	"github.com/skiff-k8s/skiff/server"
)

// memberCommands are the commands about servers.
type memberCommands struct{ kubeconfig string }

func newMembersCommand() *cobra.Command {
	m := &memberCommands{}
	cmd := &cobra.Command{
		Use:   "members",
		Short: "List the servers of the cluster, and remove those that are gone",
		Long: `List the servers of the cluster, and remove those that are gone. More than half of the servers that are listed have to
run for anything to be changed, this list too. skiff token create --server makes another one join.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	kubeconfigFlag(cmd.PersistentFlags(), &m.kubeconfig)
	cmd.AddCommand(m.newList(), m.newRemove(), newMembersReset())
	return cmd
}

func (m *memberCommands) newList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the servers",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := m.call(cmd.Context(), http.MethodGet, server.MembersPath)
			if err != nil {
				return fmt.Errorf("list the servers: %w", err)
			}
			var all []datastore.Member
			if err := json.Unmarshal(answer, &all); err != nil {
				return fmt.Errorf("list the servers: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(table, "NAME\tID\tSTATE\tPEER URL")
			for _, one := range all {
				state := "member"
				switch {
				case one.Learner:
					state = "joining"
				case one.Leads:
					state = "leader"
				}
				fmt.Fprintf(table, "%s\t%x\t%s\t%s\n", one.Name, one.ID, state, one.PeerURL)
			}
			return table.Flush()
		},
	}
}

func (m *memberCommands) newRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a server, by its name or ID",
		Long: `Remove a server that will not come back, by its name or ID. If it runs, it ends, and cannot start again until skiff
uninstall has taken away what it has. Its Node stays: skiff kubectl delete node NAME.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("which server? (skiff members list lists them)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := m.call(cmd.Context(), http.MethodDelete, server.MembersPath+"/"+url.PathEscape(args[0])); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "removed server %s\n", args[0])
			return nil
		},
	}
}

func newMembersReset() *cobra.Command {
	m := &machine{settings: newSettings()}
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Make the server on this machine the only one, after all others are gone for good",
		Long: `Make the server on this machine the only one of its cluster, with the data that it has, after so many others are gone for
good that there is no majority any more. It must not run. What was written without it is lost. The others must never be
started again with their old data: two clusters would have the same keys. skiff uninstall, there, takes it away.`,
		Args: noArguments,
	}
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	m.addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cfg, err := m.open(cmd)
		if err != nil {
			return err
		}
		if !*yes && !confirmed(cmd.InOrStdin(), cmd.OutOrStdout(), "This has the server in "+cfg.DataDir+" forget all others for good.") {
			return errors.New("nothing was changed (answer yes, or call it with --yes)")
		}
		if err := cfg.ResetMembers(ctx); err != nil {
			return err
		}
		m.say("this server is the only one now (skiff server starts it)")
		return nil
	}
	return cmd
}

// call asks a server, and returns its answer. Its errors are what it says.
func (m *memberCommands) call(ctx context.Context, method, path string) ([]byte, error) {
	answer, err := m.request(ctx, method, path)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	return io.ReadAll(answer)
}

// request asks a server. Its errors are what it says; the caller closes the answer.
func (m *memberCommands) request(ctx context.Context, method, path string) (io.ReadCloser, error) {
	config, err := adminConfig(m.kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := restclient.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(config.Host, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	return nil, errors.New(strings.TrimSpace(string(answer)))
}
