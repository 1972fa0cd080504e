// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	bootstraputil "k8s.io/cluster-bootstrap/token/util"
	"k8s.io/cluster-bootstrap/util/secrets"

	"github.com/skiff-k8s/skiff/agent/join"
	"github.com/skiff-k8s/skiff/server"
)

// Who a machine with a token is, besides a bootstrapper: roles are bound to it.
const (
	nodesGroup   = "system:bootstrappers:skiff:nodes"
	serversGroup = "system:bootstrappers:skiff:servers"
)

// tokens are the commands' way to the cluster.
type tokens struct {
	kubeconfig string
	clock      serverClock
}

func newTokenCommand() *cobra.Command {
	t := &tokens{}
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and delete the tokens by which machines join",
		Long: `Make, list and delete the tokens by which machines join the cluster, as nodes or as servers. A token names the cluster's
certificate by its hash, so that a machine that joins knows its servers; and it lets any machine join that has it,
until it expires or is deleted. Machines that have joined need it no more. Who has a token for servers can get the
cluster's keys: make it when it is needed, and delete it then.`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	kubeconfigFlag(cmd.PersistentFlags(), &t.kubeconfig)
	cmd.AddCommand(t.newCreate(), t.newList(), t.newDelete())
	return cmd
}

func (t *tokens) newCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print the command by which a machine joins with it",
		Args:  noArguments,
	}
	ttl := cmd.Flags().Duration("ttl", 24*time.Hour, "after how long it expires; 0 for never")
	description := cmd.Flags().String("description", "", "what it is for, for skiff token list")
	forServer := cmd.Flags().Bool("server", false, "for one more server, which gets the cluster's keys and a copy of its data; docs/servers.md")
	bare := cmd.Flags().Bool("quiet", false, "print the token alone")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := t.client()
		if err != nil {
			return err
		}
		info, err := client.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(cmd.Context(), bootstrapapi.ConfigMapClusterInfo, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read cluster-info: %w", err)
		}
		config, err := clientcmd.Load([]byte(info.Data[bootstrapapi.KubeConfigKey]))
		if err != nil || config.Clusters[""] == nil {
			return fmt.Errorf("read cluster-info: %w", errors.Join(err, errors.New("it is not as Skiff's servers write it")))
		}
		hash, err := join.HashCA(config.Clusters[""].CertificateAuthorityData)
		if err != nil {
			return err
		}
		secret, token, err := newToken(*forServer, *ttl, *description, t.clock.now())
		if err != nil {
			return err
		}
		if _, err := client.CoreV1().Secrets(secret.Namespace).Create(cmd.Context(), secret, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create the token: %w", err)
		}
		token.CAHash = hash
		if *bare {
			fmt.Fprintln(cmd.OutOrStdout(), token)
		} else {
			what := "agent"
			if *forServer {
				what = "server"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "sudo skiff %s --server %s --token %s\n", what, aliveServer(cmd.Context(), client, config.Clusters[""].Server), token)
		}
		return nil
	}
	return cmd
}

// aliveServer is the server that is published, unless it is one of several that has gone.
func aliveServer(ctx context.Context, client kubernetes.Interface, published string) string {
	slice, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil || len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return published
	}
	var alive []string
	for _, endpoint := range slice.Endpoints {
		for _, address := range endpoint.Addresses {
			alive = append(alive, "https://"+net.JoinHostPort(address, strconv.Itoa(int(*slice.Ports[0].Port))))
		}
	}
	if len(alive) == 0 || slices.Contains(alive, published) {
		return published
	}
	return alive[0]
}

// newToken is a new bootstrap token as the Secret that it is in the cluster.
func newToken(forServer bool, ttl time.Duration, description string, now time.Time) (*corev1.Secret, join.Token, error) {
	if ttl < 0 {
		return nil, join.Token{}, usagef("--ttl is %s but must not be in the past", ttl)
	}
	text, err := bootstraputil.GenerateBootstrapToken()
	if err != nil {
		return nil, join.Token{}, fmt.Errorf("make a token: %w", err)
	}
	id, key, _ := strings.Cut(text, ".")
	group := nodesGroup
	if forServer {
		group = serversGroup
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: bootstraputil.BootstrapTokenSecretName(id)},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{
			bootstrapapi.BootstrapTokenIDKey:               id,
			bootstrapapi.BootstrapTokenSecretKey:           key,
			bootstrapapi.BootstrapTokenUsageAuthentication: "true",
			bootstrapapi.BootstrapTokenUsageSigningKey:     "true",
			bootstrapapi.BootstrapTokenExtraGroupsKey:      group,
		},
	}
	if ttl > 0 {
		secret.StringData[bootstrapapi.BootstrapTokenExpirationKey] = now.Add(ttl).UTC().Format(time.RFC3339)
	}
	if description != "" {
		secret.StringData[bootstrapapi.BootstrapTokenDescriptionKey] = description
	}
	return secret, join.Token{ID: id, Secret: key}, nil
}

func (t *tokens) newList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the tokens, by their IDs: the part before the first dot",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(cmd.Context(), metav1.ListOptions{
				FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String(),
			})
			if err != nil {
				return fmt.Errorf("list tokens: %w", err)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
			fmt.Fprintln(table, "ID\tEXPIRES IN\tJOINS\tDESCRIPTION")
			for _, s := range list.Items {
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", secrets.GetData(&s, bootstrapapi.BootstrapTokenIDKey), timeLeft(&s, t.clock.now()),
					joins(&s), secrets.GetData(&s, bootstrapapi.BootstrapTokenDescriptionKey))
			}
			return table.Flush()
		},
	}
}

func timeLeft(token *corev1.Secret, now time.Time) string {
	left, expired := secrets.GetExpiration(token, now)
	switch {
	case expired:
		return "expired"
	case left == 0:
		return "never"
	}
	return duration.HumanDuration(left)
}

// joins says what machines with a token become.
func joins(token *corev1.Secret) string {
	groups, err := secrets.GetGroups(token)
	switch {
	case err != nil || secrets.GetData(token, bootstrapapi.BootstrapTokenUsageAuthentication) != "true":
	case slices.Contains(groups, serversGroup):
		return "servers"
	case slices.Contains(groups, nodesGroup):
		return "nodes"
	}
	return "nothing"
}

func (t *tokens) newDelete() *cobra.Command {
	return &cobra.Command{
		Use:   "delete ID ...",
		Short: "Delete tokens, by their IDs or whole",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("which token? (skiff token list lists them)")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			for _, arg := range args {
				id, _, _ := strings.Cut(arg, ".")
				if !bootstraputil.IsValidBootstrapTokenID(id) {
					return usagef("%q is not the ID of a token, like abc123 (skiff token list lists them)", id)
				}
				err := client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(cmd.Context(), bootstraputil.BootstrapTokenSecretName(id), metav1.DeleteOptions{})
				if apierrors.IsNotFound(err) {
					return fmt.Errorf("there is no token %s (skiff token list lists them)", id)
				}
				if err != nil {
					return fmt.Errorf("delete token %s: %w", id, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "deleted token %s\n", id)
			}
			return nil
		},
	}
}

func (t *tokens) client() (kubernetes.Interface, error) {
	config, err := adminConfig(t.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Wrap(t.clock.follow)
	return kubernetes.NewForConfig(config)
}

// serverClock is the clock of who answers requests. By that it is judged whether a token has expired, and this machine's may differ.
type serverClock struct {
	http.RoundTripper
	ahead atomic.Int64 // of this machine's, as of the last answer; nanoseconds
}

func (c *serverClock) follow(next http.RoundTripper) http.RoundTripper {
	c.RoundTripper = next
	return c
}

// RoundTrip implements http.RoundTripper.
func (c *serverClock) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := c.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		c.ahead.Store(int64(time.Until(date)))
	}
	return response, nil
}

func (c *serverClock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

// adminConfig is the way to the cluster for an administrator.
func adminConfig(kubeconfig string) (*restclient.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	if kubeconfig == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		rules.ExplicitPath = server.Default().Kubeconfig
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (call it on a server, or set --kubeconfig)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w (call it on a server as root, or set --kubeconfig)", err)
	}
	return config, nil
}

// kubeconfigFlag adds the flag that adminConfig wants.
func kubeconfigFlag(fs *pflag.FlagSet, to *string) {
	fs.StringVar(to, "kubeconfig", "", "credentials of an administrator (default: $KUBECONFIG, or "+server.Default().Kubeconfig+")")
}
