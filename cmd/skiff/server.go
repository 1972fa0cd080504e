// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authz"
	"github.com/skiff-k8s/skiff/internal/systemd"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	schedulerconfig "github.com/skiff-k8s/skiff/scheduler/config"
	"github.com/skiff-k8s/skiff/server"
	"github.com/skiff-k8s/skiff/version"
)

func newServerCommand() *cobra.Command {
	s := newSettings()
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a control plane, and a node on this machine",
		Long: `Run a control plane, and a node on this machine, until it is told to end by SIGTERM or ^C. Pods go on
running then, and the next start takes them over; skiff stop ends them too.

Every flag can also be a line of ` + configFile + ` ("node-name: alpha"; lists as YAML lists) or an
environment variable (SKIFF_NODE_NAME). A flag wins over the environment, which wins over the file.`,
		Args: noArguments,
	}
	s.addFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(cmd.Flags()); err != nil {
			return err
		}
		s.server.Said, s.server.Node.Flags = cmd.Flags().Changed, shown(cmd.Flags())
		return runServer(cmd, s)
	}
	return cmd
}

func runServer(cmd *cobra.Command, s *settings) error {
	cfg := s.server
	if os.Geteuid() != 0 && !cfg.NoNode {
		return errors.New("a node needs root (use sudo, or --no-node for a control plane alone)")
	}
	if err := cfg.Complete(); err != nil {
		return err
	}
	ctx, err := s.logs.start(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	profile, err := startProfile()
	if err != nil {
		return err
	}
	defer profile.stop()
	collectSeldom()
	cfg.Started = processStart()
	out := cmd.OutOrStdout()
	greet(out)
	cfg.Progress = func(step server.Step, after time.Duration) {
		tell(out, &cfg, step, after)
		if step == lastStep(&cfg) {
			profile.started()
			started(ctx)
		}
	}
	srv, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	err = runUntilTold(ctx, out, srv.Run)
	if errors.Is(err, server.ErrLostLease) && ctx.Err() == nil {
		return startAgain(out, err)
	}
	return err
}

// startAgain puts the process into the state of its start. Pods go on meanwhile.
func startAgain(out io.Writer, why error) error {
	fmt.Fprintf(out, "Starting again: %v.\n", why)
	program, err := os.Executable()
	if err != nil {
		return errors.Join(why, err)
	}
	return errors.Join(why, unix.Exec(program, os.Args, os.Environ())) // returns only if it fails
}

func greet(out io.Writer) {
	fmt.Fprintf(out, "Skiff %s (Kubernetes v%s)\n", version.Skiff, version.Kubernetes)
}

// runUntilTold runs a server or an agent, and says so when it is told to end.
func runUntilTold(ctx context.Context, out io.Writer, run func(context.Context) error) error {
	said := make(chan struct{})
	unsay := context.AfterFunc(ctx, func() {
		defer close(said)
		fmt.Fprintln(out, "Stopping. Pods go on running; skiff stop ends them too.")
	})
	group, ctx := errgroup.WithContext(ctx)
	ctx, ended := context.WithCancel(ctx)
	group.Go(func() error { return systemd.Watch(ctx) })
	group.Go(func() error {
		defer ended()
		return run(ctx)
	})
	err := group.Wait()
	if !unsay() {
		<-said
	}
	return err
}

// started is for when all that was to start is there.
func started(ctx context.Context) {
	if err := systemd.Ready(); err != nil {
		klog.FromContext(ctx).Error(err, "Telling systemd that this process is ready")
	}
	time.AfterFunc(settling, forgetStart)
}

// settling is how long controllers and informers are busy with their first look at everything.
const settling = 5 * time.Second

// tell prints a step of the start, and after the last one how to go on.
func tell(out io.Writer, cfg *server.Config, step server.Step, after time.Duration) {
	what := map[server.Step]string{
		server.StepData:    "data is open in " + cfg.DataDir,
		server.StepAPI:     fmt.Sprintf("API serves at port %d", cfg.SecurePort),
		server.StepRuntime: "container runtime is ready",
		server.StepNode:    fmt.Sprintf("node %s is Ready", cfg.NodeName),
		server.StepWaiting: "waiting for other servers: more than half of them must run and reach each other",
	}[step]
	fmt.Fprintf(out, "%6.1f s  %s\n", after.Seconds(), what)
	if step == lastStep(cfg) {
		fmt.Fprintf(out, "\nUse it from another shell:\n\n  export KUBECONFIG=%s\n  skiff kubectl get nodes\n  skiff token create     # prints the command by which another machine joins\n\n", cfg.Kubeconfig)
	}
}

func lastStep(cfg *server.Config) server.Step {
	if cfg.NoNode {
		return server.StepAPI
	}
	return server.StepNode
}

// processStart is when the kernel started this process, some 0.1 s before main is reached.
func processStart() time.Time {
	const clockTick = 10 * time.Millisecond
	now := time.Now()
	var ticks int64
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return now
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const startTime = 22 - 3 // the 22nd field of proc(5); the first after the name is the third
	if len(fields) <= startTime {
		return now
	}
	if ticks, err = strconv.ParseInt(string(fields[startTime]), 10, 64); err != nil {
		return now
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return now
	}
	return now.Add(time.Duration(ticks)*clockTick - time.Duration(boot.Nano()))
}

func serverFlags(fs *pflag.FlagSet, cfg *server.Config) {
	fs.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "what must survive: database, keys, images")
	fs.StringVar(&cfg.StateDir, "state-dir", cfg.StateDir, "what ends with the machine's uptime: sockets, mounts")
	fs.StringVar(&cfg.NodeName, "node-name", "", "name of this machine's Node (default: the host name)")
	nodeIPVar(fs, &cfg.NodeIP, &cfg.NodeIP2)
	fs.StringSliceVar(&cfg.TLSSANs, "tls-san", nil, "more names or addresses under which clients reach the API")
	fs.IntVar(&cfg.SecurePort, "secure-port", cfg.SecurePort, "port of the API")
	fs.StringVar(&cfg.Server, "server", "", "a server of the cluster to become one more server of, like https://192.0.2.1:6443; needed to join, and not any more then")
	fs.StringVar(&cfg.Token, "token", "", "what skiff token create --server has printed; likewise")
	fs.IntVar(&cfg.PeerPort, "peer-port", cfg.PeerPort, "port of the database, by which servers reach each other; nothing listens there if there is one server")
	prefixesVar(fs, &cfg.ClusterCIDRs, "cluster-cidr", "addresses of pods; with a comma one range of each family")
	prefixesVar(fs, &cfg.ServiceCIDRs, "service-cidr", "addresses of Services; likewise")
	fs.Func("cluster-dns", "address of the cluster's DNS Service (default: the tenth of --service-cidr)", func(v string) (err error) {
		cfg.ClusterDNS, err = netip.ParseAddr(v)
		return err
	})
	fs.StringVar(&cfg.ClusterDomain, "cluster-domain", cfg.ClusterDomain, "domain of the cluster's DNS names")
	fs.StringVar(&cfg.LoadBalancer, "load-balancer", cfg.LoadBalancer, "addresses of LoadBalancer Services: nodes (those of the nodes), or none for a controller of your own")
	fs.StringSliceVar(&cfg.LoadBalancerPool, "load-balancer-pool", nil, "ranges of addresses for LoadBalancer Services instead, like 192.0.2.200-192.0.2.220, which nodes announce by ARP and NDP")
	fs.IntVar(&cfg.KeepEndedPods, "terminated-pod-gc-threshold", cfg.KeepEndedPods, "how many pods that have ended the cluster keeps for reading; 0: all")
	fs.Func("service-node-port-range", "ports for Services of type NodePort (default "+cfg.NodePorts.String()+")", func(v string) error {
		n, err := fmt.Sscanf(v, "%d-%d", &cfg.NodePorts.First, &cfg.NodePorts.Last)
		if err != nil || n != 2 {
			return fmt.Errorf("%q is not a range like 30000-32767", v)
		}
		return nil
	})
	fs.StringVar(&cfg.Kubeconfig, "write-kubeconfig", cfg.Kubeconfig, "where to write the administrator's kubeconfig")
	fs.Func("write-kubeconfig-mode", "permissions of that file (default 0600)", func(v string) error {
		mode, err := strconv.ParseUint(v, 8, 9)
		if err != nil {
			return fmt.Errorf("%q is not an octal mode like 0640", v)
		}
		cfg.KubeconfigMode = os.FileMode(mode)
		return nil
	})
	fs.StringSliceVar(&cfg.Disable, "disable", nil, "what is not wanted: local-path (the default StorageClass), ingress (serving Ingresses), gateway (the Gateway API), and manifests in server/manifests of the data directory, by name without suffix")
	fs.BoolVar(&cfg.NoNode, "no-node", false, "control plane only: do not make this machine a node")
	apiFlags(fs, &cfg.API)
	gatewayFlags(fs, &cfg.Gateway)
	nodeFlags(fs, &cfg.Node)
	fs.Func("scheduler-config", "file with a KubeSchedulerConfiguration (default: as kube-scheduler without one)", func(file string) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		cfg.Scheduler, err = schedulerconfig.Load(text)
		return err
	})
	simulatedFlags(fs, &cfg.Simulated)
}

func simulatedFlags(fs *pflag.FlagSet, cfg *simulated.Config) {
	fs.IntVar(&cfg.Nodes, "simulated-nodes", 0, "how many nodes there are besides, in the API only, to try schedulers and controllers with; docs/simulated-nodes.md")
	fs.DurationVar(&cfg.StartAfter, "simulated-pod-start", 0, "how long pods take to start on simulated nodes")
	fs.Func("simulated-node-template", "file with a Node manifest to make the simulated nodes of; {{.Index}} in it is a node's number", func(file string) error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		cfg.Template, err = simulated.ParseTemplate(string(text))
		return err
	})
}

// gatewayFlags are about serving Ingresses and Gateways.
func gatewayFlags(fs *pflag.FlagSet, cfg *server.GatewaySettings) {
	fs.IntVar(&cfg.IngressHTTPPort, "ingress-http-port", cfg.IngressHTTPPort, "port of this machine for Ingresses")
	fs.IntVar(&cfg.IngressHTTPSPort, "ingress-https-port", cfg.IngressHTTPSPort, "port of this machine for Ingresses with TLS")
	fs.Func("gateway-trusted-proxies", "addresses (CIDR, repeatable) of proxies in front of this machine, whose X-Forwarded headers are believed", func(v string) error {
		prefix, err := netip.ParsePrefix(v)
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix)
		return err
	})
}

// apiFlags are called as kube-apiserver's.
func apiFlags(fs *pflag.FlagSet, cfg *server.APISettings) {
	fs.IntVar(&cfg.MaxRequestsInFlight, "max-requests-inflight", cfg.MaxRequestsInFlight, "with --max-mutating-requests-inflight, how many requests the API handles at once")
	fs.IntVar(&cfg.MaxMutatingRequestsInFlight, "max-mutating-requests-inflight", cfg.MaxMutatingRequestsInFlight, "see --max-requests-inflight; both 0: no limit and no fairness")
	fs.DurationVar(&cfg.RequestTimeout, "request-timeout", cfg.RequestTimeout, "how long a request may take that is not a watch or the like")
	fs.IntVar(&cfg.MinRequestTimeout, "min-request-timeout", cfg.MinRequestTimeout, "seconds that a watch lasts at least")
	fs.DurationVar(&cfg.EventTTL, "event-ttl", cfg.EventTTL, "how long Events stay")
	fs.StringVar(&cfg.TLSMinVersion, "tls-min-version", "", "oldest version of TLS that the API takes: VersionTLS12 or VersionTLS13 (default: the former)")
	fs.StringSliceVar(&cfg.TLSCipherSuites, "tls-cipher-suites", nil, "cipher suites that the API takes, by Go's names (default: all that are good)")
	fs.StringArrayVar(&cfg.Issuers, "service-account-issuer", nil, "issuers of service account tokens, one in each flag; the first makes new ones (default: one named for --cluster-domain)")
	fs.StringVar(&cfg.KeysURL, "service-account-jwks-uri", "", "where the keys of the first issuer are, as its discovery document tells (default: at this server)")
	fs.StringSliceVar(&cfg.Audiences, "api-audiences", nil, "audiences of tokens for this API (default: the issuers)")
	authenticationFlags(fs, &cfg.Authentication)
	authorizationFlags(fs, &cfg.Authorization)
	fs.StringVar(&cfg.AuthenticationConfig, "authentication-config", "", "file with an AuthenticationConfiguration: OpenID Connect issuers, and who may be anonymous")
	fs.StringVar(&cfg.AuthorizationConfig, "authorization-config", "", "file with an AuthorizationConfiguration: webhooks to ask, and the order of all authorizers (default: Node, RBAC)")
	fs.StringVar(&cfg.EncryptionConfig, "encryption-provider-config", "", "file with an EncryptionConfiguration: what is encrypted in etcd, and with which keys")
	fs.BoolVar(&cfg.ReloadEncryptionConfig, "encryption-provider-config-automatic-reload", false, "take over changes of --encryption-provider-config")
	fs.StringVar(&cfg.TracingConfig, "tracing-config-file", "", "file with a TracingConfiguration: where traces of requests go")
	fs.StringSliceVar(&cfg.DisableAdmissionPlugins, "disable-admission-plugins", nil, "admission plugins to leave out, by name (NodeRestriction, PodSecurity, ...)")
	cfg.Audit.AddFlags(fs)
}

func authenticationFlags(fs *pflag.FlagSet, cfg *authn.Flags) {
	fs.BoolFunc("anonymous-auth", "whether any request may be anonymous (default: only those that tell health, version, and what machines read before they join)", func(v string) error {
		all, err := strconv.ParseBool(v)
		cfg.Anonymous = &all
		return err
	})
	fs.StringVar(&cfg.TokenFile, "token-auth-file", "", "file with tokens: lines of token,user,uid,\"group1,group2\"")
	fs.StringVar(&cfg.WebhookFile, "authentication-token-webhook-config-file", "", "kubeconfig of a webhook that recognizes tokens by TokenReviews")
	fs.StringVar(&cfg.WebhookVersion, "authentication-token-webhook-version", cfg.WebhookVersion, "version of those TokenReviews")
	fs.DurationVar(&cfg.WebhookTTL, "authentication-token-webhook-cache-ttl", cfg.WebhookTTL, "how long its answers count")
	oidc := &cfg.OIDC
	fs.StringVar(&oidc.IssuerURL, "oidc-issuer-url", "", "OpenID Connect issuer whose tokens are taken (--authentication-config can say more)")
	fs.StringVar(&oidc.ClientID, "oidc-client-id", "", "client for which they must be")
	fs.StringVar(&oidc.CAFile, "oidc-ca-file", "", "certificate authorities of the issuer (default: those of this machine)")
	fs.StringVar(&oidc.UsernameClaim, "oidc-username-claim", oidc.UsernameClaim, "claim that is the user's name")
	fs.StringVar(&oidc.UsernamePrefix, "oidc-username-prefix", "", "what users' names begin with; - for nothing (default: the issuer, unless the claim is email)")
	fs.StringVar(&oidc.GroupsClaim, "oidc-groups-claim", "", "claim that has the user's groups (default: none)")
	fs.StringVar(&oidc.GroupsPrefix, "oidc-groups-prefix", "", "what groups' names begin with")
	fs.Var(cliflag.NewMapStringStringNoSplit(&oidc.RequiredClaims), "oidc-required-claim", "claim=value that a token must have; may be given again")
	fs.StringSliceVar(&oidc.SigningAlgorithms, "oidc-signing-algs", oidc.SigningAlgorithms, "algorithms that may sign tokens")
}

func authorizationFlags(fs *pflag.FlagSet, cfg *authz.Flags) {
	fs.StringSliceVar(&cfg.Modes, "authorization-mode", nil, "authorizers in their order: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny (default: Node,RBAC)")
	fs.StringVar(&cfg.PolicyFile, "authorization-policy-file", "", "file with policies, for ABAC")
	fs.StringVar(&cfg.WebhookFile, "authorization-webhook-config-file", "", "kubeconfig of the webhook, for Webhook")
	fs.StringVar(&cfg.WebhookVersion, "authorization-webhook-version", cfg.WebhookVersion, "version of SubjectAccessReviews for it")
	fs.DurationVar(&cfg.WebhookAllowed, "authorization-webhook-cache-authorized-ttl", cfg.WebhookAllowed, "how long it counts that it allows a request")
	fs.DurationVar(&cfg.WebhookRefused, "authorization-webhook-cache-unauthorized-ttl", cfg.WebhookRefused, "how long it counts that it does not")
}

func nodeFlags(fs *pflag.FlagSet, cfg *agent.Settings) {
	fs.StringVar(&cfg.RuntimeEndpoint, "container-runtime-endpoint", "", "socket of another CRI runtime (default: the containerd in this process)")
	fs.StringVar(&cfg.KubeletRoot, "kubelet-root", cfg.KubeletRoot, "directory of pods' volumes")
	fs.IntVar(&cfg.KubeletPort, "kubelet-port", cfg.KubeletPort, "port by which the API server reaches this node")
	fs.StringVar(&cfg.PodLogs, "pod-logs", cfg.PodLogs, "directory of containers' logs")
	fs.StringVar(&cfg.ContainerLogs, "container-logs", cfg.ContainerLogs, "directory of links to containers' logs, by pod and container; empty for none")
	fs.Int64Var(&cfg.MaxPods, "max-pods", cfg.MaxPods, "how many pods may run on this node")
	fs.StringToStringVar(&cfg.NodeLabels, "node-labels", nil, "labels of this machine's Node, as name=value,name=value; set at each start")
	fs.StringVar(&cfg.Registries, "registries", cfg.Registries, "file with mirrors, TLS and credentials of image registries; it need not exist")
	fs.StringVar(&cfg.CredentialFile, "image-credential-provider-config", "", "file with a CredentialProviderConfig: programs that know credentials of registries (default: none)")
	fs.StringVar(&cfg.CredentialDir, "image-credential-provider-bin-dir", "", "directory of those programs")
	fs.StringVar(&cfg.KubeletConfig, "kubelet-config", "", "file with a KubeletConfiguration (kubelet.config.k8s.io/v1beta1) for this node (default: none)")
	fs.StringVar(&cfg.PodManifests, "pod-manifest-path", "", "folder of static pods, one in each file, which this node runs by itself (default: none)")
	fs.StringVar(&cfg.CNIConfDir, "cni-conf-dir", cfg.CNIConfDir, "directory of CNI configurations")
	fs.StringVar(&cfg.CNIBinDir, "cni-bin-dir", cfg.CNIBinDir, "directory of CNI plugins")
	fs.StringVar(&cfg.CgroupRoot, "cgroup-root", cfg.CgroupRoot, "cgroup below which pods run")
	fs.StringVar(&cfg.Network, "network", cfg.Network, "pod network: skiff (VXLAN between nodes), host-gw (nodes on one network only), or none for a CNI plugin of your own")
	fs.StringVar(&cfg.ResolvConf, "resolv-conf", cfg.ResolvConf, "name servers of this machine, for pods and for names outside of the cluster")
	fs.StringVar(&cfg.ProxyHealth, "proxy-health-address", cfg.ProxyHealth, "where the Service proxy answers /healthz")
	fs.StringVar(&cfg.ProxyMetrics, "proxy-metrics-address", cfg.ProxyMetrics, "where the Service proxy answers /metrics and /proxyMode, under kube-proxy's names")
	fs.StringVar(&cfg.ProxyMode, "proxy-mode", cfg.ProxyMode, "how Services get to pods: iptables, or nftables, which needs the command nft")
	fs.BoolVar(&cfg.MasqueradeAll, "masquerade-all", false, "let pods behind cluster IPs see this node instead of their clients")
	fs.BoolVar(&cfg.ExternalIPs, "allow-external-ips", false, "let Services have spec.externalIPs: who may write Services can then take the traffic of any address over (CVE-2020-8554)")
	fs.StringSliceVar(&cfg.NodePortAddresses, "nodeport-addresses", nil, "ranges of this node's addresses that take node ports, or primary for --node-ip (default: all addresses, primary with nftables)")
}

func prefixesVar(fs *pflag.FlagSet, target *[]netip.Prefix, name, usage string) {
	like := (*target)[0]
	fs.Func(name, fmt.Sprintf("%s (default %s)", usage, like), func(v string) error {
		var prefixes []netip.Prefix
		for text := range strings.SplitSeq(v, ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(text))
			if err != nil {
				return fmt.Errorf("%q is not a range like %s", text, like)
			}
			prefixes = append(prefixes, p.Masked())
		}
		*target = prefixes
		return nil
	})
}

// nodeIPVar takes the node's address, and one of the other family after a comma.
func nodeIPVar(fs *pflag.FlagSet, first, second *net.IP) {
	fs.Func("node-ip", "address by which other nodes reach this one; with a comma another of the other family (default: the one towards the default route)", func(v string) error {
		texts := strings.Split(v, ",")
		if len(texts) > 2 {
			return fmt.Errorf("%q has more than two addresses", v)
		}
		for i, to := range []*net.IP{first, second} {
			*to = nil
			if i == len(texts) {
				break
			}
			if *to = net.ParseIP(strings.TrimSpace(texts[i])); *to == nil {
				return fmt.Errorf("%q is not an IP address", texts[i])
			}
		}
		return nil
	})
}
