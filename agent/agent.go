// SPDX-License-Identifier: Apache-2.0

// Package agent builds a node out of its parts: the container runtime, the kubelet with its volumes and its
// HTTP API, the pod network, the Service proxy and DNS.
//
// The parts know the API by clients and informers, and each other only through what is handed to them here.
// A server runs an Agent for the machine it is on.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/apparmor"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/utils/cpuset"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/cri"
	"github.com/skiff-k8s/skiff/cri/bundle"
	"github.com/skiff-k8s/skiff/cri/registries"
	"github.com/skiff-k8s/skiff/dns"
	"github.com/skiff-k8s/skiff/internal/wallclock"
	"github.com/skiff-k8s/skiff/kubelet"
	"github.com/skiff-k8s/skiff/kubelet/cgroups"
	"github.com/skiff-k8s/skiff/kubelet/configfile"
	"github.com/skiff-k8s/skiff/kubelet/csi"
	"github.com/skiff-k8s/skiff/kubelet/env"
	"github.com/skiff-k8s/skiff/kubelet/eviction"
	"github.com/skiff-k8s/skiff/kubelet/images"
	"github.com/skiff-k8s/skiff/kubelet/metrics"
	"github.com/skiff-k8s/skiff/kubelet/node"
	"github.com/skiff-k8s/skiff/kubelet/numa"
	"github.com/skiff-k8s/skiff/kubelet/objects"
	"github.com/skiff-k8s/skiff/kubelet/oom"
	"github.com/skiff-k8s/skiff/kubelet/plugins"
	"github.com/skiff-k8s/skiff/kubelet/podnet"
	kubeletserver "github.com/skiff-k8s/skiff/kubelet/server"
	"github.com/skiff-k8s/skiff/kubelet/static"
	"github.com/skiff-k8s/skiff/kubelet/volumes"
	"github.com/skiff-k8s/skiff/network"
	"github.com/skiff-k8s/skiff/network/addresspool"
	"github.com/skiff-k8s/skiff/network/announce"
	"github.com/skiff-k8s/skiff/network/policy"
	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/registry/podspec"
	"github.com/skiff-k8s/skiff/version"
)

// Config is what a node is made of. All is required but Settings' optional fields.
type Config struct {
	Settings
	DataDir       string // images and network records lie in DataDir/agent
	StateDir      string
	NodeName      string
	NodeIP        net.IP
	NodeIP2       net.IP // of the other family, if the machine has one
	ClusterCIDRs  []netip.Prefix
	ServiceCIDRs  []netip.Prefix
	ClusterDNS    netip.Addr
	ClusterDomain string

	LoadBalancerPool addresspool.Pool // addresses that nodes announce; none if empty

	ServingCert func(*tls.ClientHelloInfo) (*tls.Certificate, error) // of the kubelet's port
	ClientCA    dynamiccertificates.CAContentProvider                // of those who may call it

	RuntimeReady func()          // told when containers can be started; optional
	ClusterReady <-chan struct{} // closed when the API has what every cluster has; nil: it has
}

// Deps are the ways to the API, by whom they act as.
type Deps struct {
	Node      kubernetes.Interface            // system:node:<name>
	Proxy     kubernetes.Interface            // system:kube-proxy
	DNS       kubernetes.Interface            // who may keep kube-system/kube-dns
	Informers informers.SharedInformerFactory // of Pods it need not have those of other nodes
	All       informers.SharedInformerFactory // sees all Pods; it may be the same
}

// Agent is one node.
type Agent struct {
	cfg        Config
	deps       Deps
	runtime    *cri.Containerd        // nil with a runtime of the user's
	registries *registries.Registries // nil without a file
	conn       *grpc.ClientConn
	kubelet    *kubelet.Kubelet
	api        *kubeletserver.Server
	metrics    *metrics.Metrics
	settings   *kubeletconfig.KubeletConfiguration
	volumes    *volumes.Manager
	objects    *objects.Cache
	network    *network.Network // nil with a network of the user's
	proxy      *proxy.Proxy
	plugins    *plugins.Watcher
	policy     *policy.Enforcer    // likewise
	announcer  *announce.Announcer // nil without addresses to announce

	gateways chan []netip.Addr // of the bridge, when the pod network has become ready
}

// New builds the parts. Nothing on the machine is touched before Run; a runtime of the user's is asked how it is configured. It must
// be called before the informers start.
func New(ctx context.Context, cfg Config, deps Deps) (*Agent, error) {
	a := &Agent{cfg: cfg, deps: deps, gateways: make(chan []netip.Addr, 1)}
	if err := a.buildRuntime(); err != nil {
		return nil, err
	}
	if err := a.buildNetwork(); err != nil {
		return nil, err
	}
	if err := a.buildKubelet(ctx); err != nil {
		return nil, fmt.Errorf("build the kubelet: %w", err)
	}
	return a, a.buildKubeletAPI()
}

// Run runs the node until ctx ends. Pods go on without it. It may be called before the API serves.
func (a *Agent) Run(ctx context.Context) error {
	// The runtime and the pod network outlive the kubelet, so that what it is doing ends well.
	below, belowCtx := errgroup.WithContext(context.WithoutCancel(ctx))
	belowCtx, stopBelow := context.WithCancel(belowCtx)
	defer stopBelow()
	if a.runtime != nil {
		below.Go(func() error { return a.runtime.Run(belowCtx) })
	}
	if a.network != nil {
		below.Go(func() error { return a.network.Run(belowCtx) })
		below.Go(func() error { return a.policy.Run(belowCtx) })
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-belowCtx.Done(): // one of them failed
			return errors.New("the container runtime or the pod network stopped")
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error { return a.objects.Run(ctx) })
	group.Go(func() error { return a.volumes.Run(ctx) })
	group.Go(func() error {
		if !a.awaitCluster(ctx) {
			return nil
		}
		return a.plugins.Run(ctx)
	})
	group.Go(func() error { return a.runKubelet(ctx) })
	group.Go(func() error { return a.api.Run(ctx) })
	group.Go(func() error {
		if !a.awaitCluster(ctx) {
			return nil
		}
		return a.proxy.Run(ctx)
	})
	group.Go(func() error { return a.runDNS(ctx) })
	if a.announcer != nil {
		group.Go(func() error {
			if !a.awaitCluster(ctx) {
				return nil
			}
			return a.announcer.Run(ctx)
		})
	}
	if a.network != nil {
		group.Go(func() error { return a.followPeers(ctx) })
	}
	err := group.Wait()
	stopBelow()
	if cause := below.Wait(); cause != nil {
		return cause
	}
	return err
}

// awaitCluster waits until it makes sense to ask the API for anything. It returns false if ctx ends first.
func (a *Agent) awaitCluster(ctx context.Context) bool {
	if a.cfg.ClusterReady == nil {
		return true
	}
	select {
	case <-a.cfg.ClusterReady:
		return true
	case <-ctx.Done():
		return false
	}
}

// runKubelet runs the kubelet as soon as there are a runtime and a cluster.
func (a *Agent) runKubelet(ctx context.Context) error {
	if a.runtime != nil {
		select {
		case <-a.runtime.Ready():
		case <-ctx.Done():
			return nil
		}
	}
	if a.cfg.RuntimeReady != nil {
		a.cfg.RuntimeReady()
	}
	if !a.awaitCluster(ctx) {
		return nil
	}
	return a.kubelet.Run(ctx)
}

func binDir(dataDir string) string { return filepath.Join(dataDir, "agent", "bin") }

// Unpack puts in place the programs that pods need: those of the container runtime, or for a runtime of the user's
// the CNI plugin where that runtime looks for it. An Agent does the former too, but who can do it while waiting for
// something else spares it the time.
func (s *Settings) Unpack(dataDir string) error {
	dir, programs := binDir(dataDir), []string(nil)
	if s.RuntimeEndpoint != "" {
		if !s.ownNetwork() {
			return nil
		}
		dir, programs = s.CNIBinDir, []string{bundle.Plugin}
	}
	if err := bundle.Unpack(dir, programs...); err != nil && !errors.Is(err, bundle.ErrMissing) {
		return fmt.Errorf("unpack what pods need: %w", err)
	}
	return nil
}

func (a *Agent) buildRuntime() error {
	var err error
	if a.registries, err = registries.Load(a.cfg.Registries); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if endpoint := a.cfg.RuntimeEndpoint; endpoint != "" {
		conn, err := cri.Dial(endpoint)
		if err != nil {
			return fmt.Errorf("connect to the container runtime: %w", err)
		}
		a.conn = conn
		return nil
	}
	hosts := "" // where people put a hosts.toml of their own
	if a.registries != nil {
		hosts = filepath.Join(a.cfg.DataDir, "agent", "certs.d")
	}
	runtime, err := cri.New(cri.Config{
		RegistryConfigDir: hosts,
		Registries:        a.registries,
		Root:              filepath.Join(a.cfg.DataDir, "agent", "containerd"),
		State:             filepath.Join(a.cfg.StateDir, "containerd"),
		BinDir:            binDir(a.cfg.DataDir),
		ImageDir:          filepath.Join(a.cfg.DataDir, "agent", "images"),
		CNIBinDirs:        []string{binDir(a.cfg.DataDir), a.cfg.CNIBinDir},
		CNIConfDir:        a.cfg.CNIConfDir,
	})
	if err != nil {
		return fmt.Errorf("build the container runtime: %w", err)
	}
	a.runtime, a.conn = runtime, runtime.Conn()
	return nil
}

func (a *Agent) buildNetwork() error {
	var err error
	if a.cfg.ownNetwork() {
		if a.policy, err = policy.New(policy.Config{}, a.deps.All); err != nil {
			return fmt.Errorf("build the enforcement of NetworkPolicies: %w", err)
		}
	}
	if err := a.buildPodNetwork(); err != nil {
		return err
	}
	nodeIP, _ := netip.AddrFromSlice(a.cfg.NodeIP)
	a.proxy, err = proxy.New(proxy.Config{
		NodeName:          a.cfg.NodeName,
		ClusterCIDRs:      a.cfg.ClusterCIDRs,
		HealthAddress:     a.cfg.ProxyHealth,
		MetricsAddress:    a.cfg.ProxyMetrics,
		Mode:              proxy.Mode(a.cfg.ProxyMode),
		MasqueradeAll:     a.cfg.MasqueradeAll,
		ExternalIPs:       a.cfg.ExternalIPs,
		NodePortAddresses: a.cfg.nodePortAddresses(a.cfg.nodeIPs()),
	}, a.deps.Proxy, a.deps.Informers)
	if err != nil {
		return fmt.Errorf("build the Service proxy: %w", err)
	}
	if len(a.cfg.LoadBalancerPool) > 0 {
		a.announcer = announce.New(announce.Config{
			NodeName: a.cfg.NodeName, NodeIP: nodeIP.Unmap(), Pool: a.cfg.LoadBalancerPool,
		}, a.deps.Node, a.deps.Informers)
	}
	return nil
}

// nodeIPs are the node's addresses, the one that others use first.
func (c *Config) nodeIPs() []string {
	ips := []string{c.NodeIP.String()}
	if c.NodeIP2 != nil {
		ips = append(ips, c.NodeIP2.String())
	}
	return ips
}

// bridgeName is the interface that pods of this node are behind.
const bridgeName = "skiff0"

func (a *Agent) buildPodNetwork() error {
	if !a.cfg.ownNetwork() {
		return nil
	}
	backend := network.VXLAN
	if a.cfg.Network == NetworkHostGW {
		backend = network.HostGW
	}
	address, _ := netip.AddrFromSlice(a.cfg.NodeIP) // without one there is nobody to connect to
	var isolation network.Policy
	if a.policy != nil {
		isolation = a.policy
	}
	var err error
	a.network, err = network.New(network.Config{
		Backend:      backend,
		NodeAddress:  address.Unmap(),
		DataDir:      filepath.Join(a.cfg.DataDir, "agent"),
		Socket:       filepath.Join(a.cfg.StateDir, "cni.sock"),
		ConfDir:      a.cfg.CNIConfDir,
		PluginType:   bundle.Plugin,
		Bridge:       bridgeName,
		ClusterCIDRs: a.cfg.ClusterCIDRs,
		ServiceCIDRs: a.cfg.ServiceCIDRs,
		Policy:       isolation,
		OnReady:      a.networkReady,
	})
	if err != nil {
		return fmt.Errorf("build the pod network: %w", err)
	}
	return nil
}

// networkReady lets the node become Ready at once, and DNS listen on the bridge.
func (a *Agent) networkReady(gateways []netip.Addr) {
	a.kubelet.Poke()
	select {
	case a.gateways <- gateways:
	default: // DNS listens already; the addresses of a node do not change
	}
}

const cgroupMount = "/sys/fs/cgroup"

func (a *Agent) buildKubelet(ctx context.Context) error {
	machine, err := node.ReadMachine(a.cfg.DataDir)
	if err != nil {
		return err
	}
	driver, err := a.cgroupDriver(ctx)
	if err != nil {
		return err
	}
	if a.settings, err = configfile.Load(a.cfg.KubeletConfig, a.said(string(driver))); err != nil {
		return err
	}
	a.metrics = metrics.New(a.cfg.NodeName)
	conn := a.metrics.Conn(a.conn)
	a.objects = objects.New(a.deps.Node, func(uid types.UID) { a.kubelet.Wake(uid) })
	services := a.deps.Informers.Core().V1().Services()
	builder := env.New(a.objects,
		env.Services{Lister: services.Lister(), Synced: services.Informer().HasSynced},
		env.Node{
			Allocatable: a.allocatable,
			HostIPs:     func() ([]string, error) { return a.cfg.nodeIPs(), nil },
			Volumes:     func(pod types.UID) map[string]string { return a.volumes.Paths(pod) },
		})
	drivers := csi.New(a.deps.Node, a.cfg.NodeName)
	drivers.Measured = a.metrics.CSICall
	a.volumes = volumes.New(volumes.Config{
		NodeName:     a.cfg.NodeName,
		CSI:          drivers,
		Measured:     a.metrics.StorageOperation,
		InUseChanged: func() { a.kubelet.Poke() },
		Root:         a.cfg.KubeletRoot,
		Client:       a.deps.Node,
		Factory:      a.deps.Informers,
		Objects:      a.objects,
		Env:          builder,
		Node:         a.node,
		Changed:      func(uid types.UID) { a.kubelet.Wake(uid) },
		Stale: func(pod *corev1.Pod, err error) {
			klog.ErrorS(err, "Volume is not up to date", "pod", klog.KObj(pod))
			a.kubelet.Event(pod, corev1.EventTypeWarning, "FailedMount", err.Error())
		},
		Event: func(about runtime.Object, kind, reason, message string) {
			a.kubelet.Event(about, kind, reason, message)
		},
		EnsureImage: func(ctx context.Context, pod *corev1.Pod, image *corev1.ImageVolumeSource) (*runtimeapi.ImageSpec, error) {
			return a.kubelet.EnsureImage(ctx, pod, image)
		},
		RecursiveReadOnly: func(handler string) bool { return a.kubelet.RecursiveReadOnly(handler) },
	})
	cfg := kubelet.Config{
		Node: node.Config{
			Name:           a.cfg.NodeName,
			Hostname:       a.cfg.NodeName,
			IPs:            a.cfg.nodeIPs(),
			KubeletVersion: version.GitVersion(),
			KubeletPort:    int32(a.cfg.KubeletPort),
			MaxPods:        a.cfg.MaxPods,
			Labels:         a.cfg.NodeLabels,
			DataDir:        a.cfg.DataDir,
		},
		Cgroups: cgroups.Config{Mount: cgroupMount, Root: a.cfg.CgroupRoot, Driver: cgroups.Driver(driver)},
		DNS: podnet.DNS{
			ClusterIPs: []string{a.cfg.ClusterDNS.String()},
			Domain:     a.cfg.ClusterDomain,
			ResolvConf: a.cfg.ResolvConf,
		},
		Root:      a.cfg.KubeletRoot,
		LogRoot:   a.cfg.PodLogs,
		LogLinks:  a.cfg.ContainerLogs,
		HostsFile: "/etc/hosts",
		AppArmor:  apparmor.HostSupports(),
	}
	if err := applySettings(&cfg, a.settings, machine); err != nil {
		return err
	}
	cfg.Eviction.Reserve = filepath.Join(a.cfg.DataDir, "agent", "reserve")
	if err := a.pullWith(&cfg.Images); err != nil {
		return err
	}
	deps := kubelet.Deps{
		Client:    a.deps.Node,
		Informers: a.deps.Informers,
		Runtime:   runtimeapi.NewRuntimeServiceClient(conn),
		Images:    runtimeapi.NewImageServiceClient(conn),
		Metrics:   a.metrics,
		Volumes:   a.volumes,
		Env:       builder,
		Static:    a.staticPods(),
		OnPodCIDR: a.podCIDRs,
		VolumesInUse: func() ([]corev1.UniqueVolumeName, []corev1.AttachedVolume) {
			return a.volumes.VolumesInUse(), nil // who attaches says what is attached
		},
		ClockJumps: wallclock.Follow,
		SystemOOMs: func(ctx context.Context, killed func(oom.Kill)) error { return oom.Follow(ctx, oom.KernelLog, killed) },
	}
	if a.runtime == nil { // ours has what it was built with
		deps.LowLevelRuntime = func(ctx context.Context) (name, version string, err error) { return cri.LowLevelRuntime(ctx, a.conn) }
	}
	if a.kubelet, err = kubelet.New(cfg, deps); err != nil {
		return err
	}
	a.plugins = plugins.New(filepath.Join(a.cfg.KubeletRoot, "plugins_registry"), map[string]plugins.Handler{
		registration.CSIPlugin: drivers,
		registration.DRAPlugin: a.kubelet.Drivers(),
	})
	return nil
}

// cgroupDriver is who makes the cgroups of the runtime's containers.
func (a *Agent) cgroupDriver(ctx context.Context) (cri.CgroupDriver, error) {
	if a.runtime != nil {
		return a.runtime.CgroupDriver(), nil
	}
	return cri.RuntimeCgroupDriver(ctx, a.conn)
}

// said is what the machine and flags say of what a KubeletConfiguration may say too.
func (a *Agent) said(cgroupDriver string) kubeletconfig.KubeletConfiguration {
	return kubeletconfig.KubeletConfiguration{
		Address: "0.0.0.0", Port: int32(a.cfg.KubeletPort), ClusterDomain: a.cfg.ClusterDomain, ClusterDNS: []string{a.cfg.ClusterDNS.String()},
		ResolverConfig: &a.cfg.ResolvConf, StaticPodPath: a.cfg.PodManifests, PodLogsDir: a.cfg.PodLogs, ContainerRuntimeEndpoint: a.cfg.RuntimeEndpoint,
		CgroupRoot: a.cfg.CgroupRoot, CgroupDriver: cgroupDriver,
	}
}

// applySettings takes over what the KubeletConfiguration says.
func applySettings(cfg *kubelet.Config, s *kubeletconfig.KubeletConfiguration, machine node.Machine) (err error) {
	if err := configfile.CheckSwap(s, machine.Swap); err != nil {
		return err
	}
	if cfg.Eviction, err = configfile.Eviction(s); err != nil {
		return err
	}
	if cfg.Node.Reserved, err = configfile.Reserved(s); err != nil {
		return err
	}
	if cfg.ReservedCPUs, err = cpuset.Parse(s.ReservedSystemCPUs); err != nil {
		return err
	}
	logSize, err := resource.ParseQuantity(s.ContainerLogMaxSize)
	if err != nil {
		return err
	}
	cfg.Node.EvictionHard = corev1.ResourceList{
		corev1.ResourceMemory:           *resource.NewQuantity(cfg.Eviction.Hard[eviction.MemoryAvailable].Of(machine.Memory), resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(cfg.Eviction.Hard[eviction.NodeFSAvailable].Of(machine.Disk), resource.BinarySI),
	}
	cfg.Shutdown = configfile.Shutdown(s)
	if s.MaxPods > 0 {
		cfg.Node.MaxPods = int64(s.MaxPods)
	}
	if s.PodsPerCore > 0 {
		cfg.Node.MaxPods = min(cfg.Node.MaxPods, int64(s.PodsPerCore)*machine.CPUs)
	}
	cfg.Node.Taints, cfg.Node.ProviderID, cfg.Node.MaxImages = s.RegisterWithTaints, s.ProviderID, s.NodeStatusMaxImages
	cfg.Cgroups.MemoryQoS = cgroups.MemoryQoS{Tiered: s.MemoryReservationPolicy == kubeletconfig.TieredReservationMemoryReservationPolicy, Factor: ptr.Deref(s.MemoryThrottlingFactor, 0)}
	cfg.PodsUnlimited = !slices.Contains(s.EnforceNodeAllocatable, "pods")
	if cfg.Reservations, err = configfile.Reservations(s); err != nil {
		return err
	}
	if s.UserNamespaces != nil {
		cfg.IDsPerPod = ptr.Deref(s.UserNamespaces.IDsPerPod, 0)
	}
	cfg.SeccompDefault, cfg.FailCgroupV1 = *s.SeccompDefault, *s.FailCgroupV1
	cfg.Cgroups.PodPids, cfg.Cgroups.CPUPeriod = max(*s.PodPidsLimit, 0), s.CPUCFSQuotaPeriod.Duration
	cfg.CPUCFSQuota, cfg.StaticCPUs = *s.CPUCFSQuota, s.CPUManagerPolicy == "static"
	if cfg.CPUOptions, err = configfile.CPUOptions(s); err != nil {
		return err
	}
	topology, err := configfile.TopologyOptions(s)
	if err != nil {
		return err
	}
	cfg.Topology = kubelet.Topology{Policy: numa.Policy(s.TopologyManagerPolicy), Scope: s.TopologyManagerScope, Options: topology}
	cfg.StaticMemory, cfg.ReservedMemory = s.MemoryManagerPolicy == "Static", configfile.ReservedMemory(s)
	cfg.LimitedSwap = s.MemorySwap.SwapBehavior == configfile.LimitedSwap
	cfg.SingleProcessOOMKill, cfg.MaxBackOff = s.SingleProcessOOMKill, s.CrashLoopBackOff.MaxContainerRestartPeriod.Duration
	cfg.AllowedSysctls = s.AllowedUnsafeSysctls
	cfg.EventsPerSecond, cfg.EventsAtOnce = *s.EventRecordQPS, s.EventBurst
	cfg.LogMaxSize, cfg.LogMaxFiles, cfg.LogPeriod = logSize.Value(), int(*s.ContainerLogMaxFiles), s.ContainerLogMonitorInterval.Duration
	cfg.Node.CheckPeriod, cfg.Node.ReportPeriod, cfg.Node.LeaseSeconds = s.NodeStatusUpdateFrequency.Duration, s.NodeStatusReportFrequency.Duration, s.NodeLeaseDurationSeconds
	cfg.ImageGC = images.GCConfig{
		HighPercent: int(*s.ImageGCHighThresholdPercent), LowPercent: int(*s.ImageGCLowThresholdPercent),
		MinAge: s.ImageMinimumGCAge.Duration, MaxAge: s.ImageMaximumGCAge.Duration,
	}
	cfg.Images.Verify, cfg.Images.Allowlist = s.ImagePullCredentialsVerificationPolicy, s.PreloadedImagesVerificationAllowlist
	cfg.Images.PullsPerSecond, cfg.Images.PullsAtOnce = *s.RegistryPullQPS, s.RegistryBurst
	cfg.Images.Parallel = 1
	if !*s.SerializeImagePulls {
		cfg.Images.Parallel = 0
		if s.MaxParallelImagePulls != nil {
			cfg.Images.Parallel = int(*s.MaxParallelImagePulls)
		}
	}
	return nil
}

// pullWith collects the credentials that the node has for registries.
func (a *Agent) pullWith(c *images.Config) (err error) {
	c.Records = filepath.Join(a.cfg.KubeletRoot, "image_manager")
	if a.cfg.CredentialFile != "" {
		if c.Providers, err = images.LoadProviders(a.cfg.CredentialFile, a.cfg.CredentialDir, a.deps.Node); err != nil {
			return err
		}
	}
	if a.registries == nil {
		return nil
	}
	c.Registries = map[string]images.DockerAuth{}
	for host, r := range a.registries.Configs {
		if r.Auth != nil {
			c.Registries[host] = images.DockerAuth{Username: r.Auth.Username, Password: r.Auth.Password, Auth: r.Auth.Auth, IdentityToken: r.Auth.IdentityToken}
		}
	}
	return nil
}

func (a *Agent) staticPods() kubelet.StaticPods {
	if a.settings.StaticPodPath == "" && a.settings.StaticPodURL == "" {
		return nil
	}
	return static.New(static.Config{
		Path: a.settings.StaticPodPath, URL: a.settings.StaticPodURL, Header: a.settings.StaticPodURLHeader, Period: a.settings.HTTPCheckFrequency.Duration,
		NodeName: a.cfg.NodeName, Default: podspec.DefaultPod,
		Validate: func(pod *corev1.Pod) field.ErrorList { return podspec.ValidatePod(pod, podspec.OptionsForPod(nil)) },
	})
}

func (a *Agent) podCIDRs(cidrs []string) {
	if a.network != nil {
		_ = a.network.SetPodCIDRs(cidrs) // the API server has validated them
	}
}

func (a *Agent) buildKubeletAPI() error {
	s := a.settings
	authenticator, authorizer, err := kubeletserver.Delegate(a.deps.Node, a.cfg.ClientCA, kubeletserver.TTLs{
		Token: s.Authentication.Webhook.CacheTTL.Duration, Allowed: s.Authorization.Webhook.CacheAuthorizedTTL.Duration, Denied: s.Authorization.Webhook.CacheUnauthorizedTTL.Duration,
	})
	if err != nil {
		return fmt.Errorf("build the kubelet's authentication: %w", err)
	}
	serving, err := configfile.TLS(s)
	if err != nil {
		return err
	}
	serving.GetCertificate = a.cfg.ServingCert
	health := ""
	if *s.HealthzPort > 0 {
		health = net.JoinHostPort(s.HealthzBindAddress, strconv.Itoa(int(*s.HealthzPort)))
	}
	a.api = kubeletserver.New(kubeletserver.Config{
		NodeName:      a.cfg.NodeName,
		Address:       net.JoinHostPort("", strconv.Itoa(a.cfg.KubeletPort)),
		HealthAddress: health,
		TLS:           serving,
		Authenticator: authenticator,
		Authorizer:    authorizer,
		Pods:          a.kubelet,
		Runtime:       runtimeapi.NewRuntimeServiceClient(a.conn),
		Images:        runtimeapi.NewImageServiceClient(a.conn),
		RuntimeSocket: strings.TrimPrefix(a.cfg.RuntimeEndpoint, "unix://"),
		RootDir:       a.cfg.KubeletRoot,
		LocalVolumes:  volumes.Directories{Root: filepath.Join(a.cfg.DataDir, "storage")},
		PodLogs:       a.cfg.PodLogs,
		NoLogs:        !*s.EnableSystemLogHandler,
		LogQuery:      *s.EnableSystemLogQuery,
		Metrics:       a.metrics,
		Cgroups:       a.kubelet.Cgroups(),
		Volumes:       a.volumes.Places,
		Measure:       a.volumes.Measure,
		TotalVolumes:  a.volumes.Totals,
		Configuration: s,
		Off: kubeletserver.Off{
			Debugging: !*s.EnableDebuggingHandlers, Profiling: !*s.EnableProfilingHandler, Flags: !*s.EnableDebugFlagsHandler,
		},
		Flags: a.cfg.Flags,
	})
	return nil
}

// Has tells whether an address is the node's, or one that its pods can have.
func (a *Agent) Has(address netip.Addr) bool {
	if slices.Contains(a.cfg.nodeIPs(), address.String()) {
		return true
	}
	n, err := a.node()
	return err == nil && slices.ContainsFunc(n.Spec.PodCIDRs, func(cidr string) bool {
		prefix, err := netip.ParsePrefix(cidr)
		return err == nil && prefix.Contains(address)
	})
}

func (a *Agent) node() (*corev1.Node, error) {
	n := a.kubelet.Node()
	if n == nil {
		return nil, fmt.Errorf("node %s is not registered yet", a.cfg.NodeName)
	}
	return n, nil
}

func (a *Agent) allocatable() (corev1.ResourceList, error) {
	n, err := a.node()
	if err != nil {
		return nil, err
	}
	return n.Status.Allocatable, nil
}

// dnsPort is where DNS listens when there is no bridge of ours to listen on.
const dnsPort = 10053

// runDNS serves the cluster's names on the bridge, where only pods and this machine reach it.
func (a *Agent) runDNS(ctx context.Context) error {
	addr, ok := netip.AddrFromSlice(a.cfg.NodeIP)
	if !ok {
		return fmt.Errorf("serve DNS: node address %s is not an IP address", a.cfg.NodeIP)
	}
	listen := []netip.AddrPort{netip.AddrPortFrom(addr.Unmap(), dnsPort)}
	if a.network != nil {
		select {
		case gateways := <-a.gateways:
			listen = listen[:0]
			for _, g := range gateways {
				listen = append(listen, netip.AddrPortFrom(g, 53))
			}
		case <-ctx.Done():
			return nil
		}
	}
	server, err := dns.New(dns.Config{
		Listen:     listen,
		Domain:     a.cfg.ClusterDomain,
		ClusterIPs: []string{a.cfg.ClusterDNS.String()},
		Endpoint:   listen[0],
		NodeName:   a.cfg.NodeName,
		ResolvConf: a.cfg.ResolvConf,
		Dir:        filepath.Join(a.cfg.StateDir, "dns"),
	}, a.deps.Informers, a.deps.All, a.deps.DNS)
	if err != nil {
		return fmt.Errorf("build DNS: %w", err)
	}
	return server.Run(ctx)
}
