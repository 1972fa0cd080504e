// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/agent"
	"github.com/skiff-k8s/skiff/server"
	"github.com/skiff-k8s/skiff/version"
)

const configFile = "/etc/skiff/config.yaml"

func newServerCommand() *cobra.Command {
	cfg := server.Default()
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a control plane, and a node on this machine",
		Long: `Run a control plane, and a node on this machine.

Every flag can also be a line of ` + configFile + ` ("node-name: alpha"; lists as YAML lists) or an
environment variable (SKIFF_NODE_NAME). A flag wins over the environment, which wins over the file.`,
		Args: cobra.NoArgs,
	}
	file := cmd.Flags().String("config", configFile, "file with settings, one line for each flag; it need not exist")
	serverFlags(cmd.Flags(), &cfg)
	verbosity(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := settings(cmd.Flags(), *file, cmd.Flags().Changed("config")); err != nil {
			return err
		}
		return runServer(cmd, cfg)
	}
	return cmd
}

func runServer(cmd *cobra.Command, cfg server.Config) error {
	if os.Geteuid() != 0 && !cfg.NoNode {
		return fmt.Errorf("a node needs root: use sudo, or --no-node for a control plane alone")
	}
	if err := cfg.Complete(); err != nil {
		return err
	}
	ctx := logging(cmd.Context())
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "Skiff %s (Kubernetes v%s), data in %s\n", version.Skiff, version.Kubernetes, cfg.DataDir)
	cfg.Progress = func(line string) {
		fmt.Fprintln(out, line)
		if strings.HasPrefix(line, "API is ready") {
			fmt.Fprintf(out, "  export KUBECONFIG=%s\n  skiff kubectl get nodes\n", cfg.Kubeconfig)
		}
	}
	s, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// logging sends our own messages to standard error, and those of the libraries only if they are warnings or
// if more than the usual was asked for. The libraries log through klog itself, our parts through the context.
func logging(ctx context.Context) context.Context {
	if klog.V(1).Enabled() {
		return ctx
	}
	var fs flag.FlagSet
	klog.InitFlags(&fs)
	for name, value := range map[string]string{"logtostderr": "false", "alsologtostderr": "false", "one_output": "true", "stderrthreshold": "FATAL"} {
		if err := fs.Set(name, value); err != nil {
			panic(err) // they are klog's own flags
		}
	}
	klog.SetOutputBySeverity("INFO", io.Discard)
	klog.SetOutputBySeverity("WARNING", os.Stderr)
	klog.SetOutputBySeverity("ERROR", os.Stderr)
	return klog.NewContext(ctx, textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(os.Stderr))))
}

func serverFlags(fs *pflag.FlagSet, cfg *server.Config) {
	fs.StringVar(&cfg.DataDir, "data-dir", cfg.DataDir, "what must survive: database, keys, images")
	fs.StringVar(&cfg.StateDir, "state-dir", cfg.StateDir, "what ends with the machine's uptime: sockets, mounts")
	fs.StringVar(&cfg.NodeName, "node-name", "", "name of this machine's Node (default: the host name)")
	fs.IPVar(&cfg.NodeIP, "node-ip", nil, "address by which other nodes reach this one (default: the one towards the default route)")
	fs.StringSliceVar(&cfg.TLSSANs, "tls-san", nil, "more names or addresses under which clients reach the API")
	fs.IntVar(&cfg.SecurePort, "secure-port", cfg.SecurePort, "port of the API")
	prefixVar(fs, &cfg.ClusterCIDR, "cluster-cidr", "addresses of pods")
	prefixVar(fs, &cfg.ServiceCIDR, "service-cidr", "addresses of Services")
	fs.Func("cluster-dns", "address of the cluster's DNS Service (default: the tenth of --service-cidr)", func(v string) (err error) {
		cfg.ClusterDNS, err = netip.ParseAddr(v)
		return err
	})
	fs.StringVar(&cfg.ClusterDomain, "cluster-domain", cfg.ClusterDomain, "domain of the cluster's DNS names")
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
	fs.BoolVar(&cfg.NoNode, "no-node", false, "control plane only: do not make this machine a node")
	nodeFlags(fs, &cfg.Node)
}

func nodeFlags(fs *pflag.FlagSet, cfg *agent.Settings) {
	fs.StringVar(&cfg.RuntimeEndpoint, "container-runtime-endpoint", "", "socket of another CRI runtime (default: the containerd in this process)")
	fs.StringVar(&cfg.KubeletRoot, "kubelet-root", cfg.KubeletRoot, "directory of pods' volumes")
	fs.IntVar(&cfg.KubeletPort, "kubelet-port", cfg.KubeletPort, "port by which the API server reaches this node")
	fs.StringVar(&cfg.PodLogs, "pod-logs", cfg.PodLogs, "directory of containers' logs")
	fs.StringVar(&cfg.ContainerLogs, "container-logs", cfg.ContainerLogs, "directory of links to containers' logs, by pod and container; empty for none")
	fs.Int64Var(&cfg.MaxPods, "max-pods", cfg.MaxPods, "how many pods may run on this node")
	fs.StringVar(&cfg.CNIConfDir, "cni-conf-dir", cfg.CNIConfDir, "directory of CNI configurations")
	fs.StringVar(&cfg.CNIBinDir, "cni-bin-dir", cfg.CNIBinDir, "directory of CNI plugins")
	fs.StringVar(&cfg.CgroupRoot, "cgroup-root", cfg.CgroupRoot, "cgroup below which pods run")
	fs.StringVar(&cfg.Network, "network", cfg.Network, "pod network: skiff, or none for a CNI plugin of your own")
	fs.StringVar(&cfg.ResolvConf, "resolv-conf", cfg.ResolvConf, "name servers of this machine, for pods and for names outside of the cluster")
	fs.StringVar(&cfg.ProxyHealth, "proxy-health-address", cfg.ProxyHealth, "where the Service proxy answers /healthz")
}

func prefixVar(fs *pflag.FlagSet, target *netip.Prefix, name, usage string) {
	fs.Func(name, fmt.Sprintf("%s (default %s)", usage, target), func(v string) error {
		p, err := netip.ParsePrefix(v)
		if err != nil {
			return fmt.Errorf("%q is not a range like %s", v, target)
		}
		*target = p.Masked()
		return nil
	})
}

// verbosity adds klog's -v as --v.
func verbosity(fs *pflag.FlagSet) {
	var goFlags flag.FlagSet
	klog.InitFlags(&goFlags)
	fs.AddGoFlag(goFlags.Lookup("v"))
	fs.AddGoFlag(goFlags.Lookup("vmodule"))
}

// settings sets the flags that were not given from the environment and from file.
func settings(fs *pflag.FlagSet, file string, required bool) error {
	values := map[string]any{}
	data, err := os.ReadFile(file)
	switch {
	case err == nil:
		if err := yaml.Unmarshal(data, &values); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
	case required || !os.IsNotExist(err):
		return fmt.Errorf("read settings: %w", err)
	}
	for name := range values {
		if fs.Lookup(name) == nil {
			return fmt.Errorf("read %s: there is no setting %q (skiff server --help lists them)", file, name)
		}
	}
	var failed error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || failed != nil {
			return
		}
		if v, ok := os.LookupEnv("SKIFF_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))); ok {
			failed = wrap(fs.Set(f.Name, v), "environment", f.Name)
		} else if v, ok := values[f.Name]; ok {
			failed = wrap(fs.Set(f.Name, text(v)), file, f.Name)
		}
	})
	return failed
}

func wrap(err error, source, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("setting %s from %s: %w", name, source, err)
}

// text is a YAML value as a flag's value: lists become comma-separated.
func text(v any) string {
	list, ok := v.([]any)
	if !ok {
		return fmt.Sprint(v)
	}
	parts := make([]string, len(list))
	for i, e := range list {
		parts[i] = fmt.Sprint(e)
	}
	return strings.Join(parts, ",")
}
