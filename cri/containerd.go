// SPDX-License-Identifier: Apache-2.0

// Package cri is the container runtime: containerd as a library, in this process.
//
// [Containerd] runs the plugins of containerd that a Kubernetes node needs and serves the Container
// Runtime Interface (CRI) twice: over a connection in memory, for the kubelet, and on the usual socket,
// for crictl and ctr. Each pod's shim and each container are processes of their own. They go on when this process
// ends, in whatever way, and the next one that is started with the same directories takes them over.
//
// [Dial] connects to any other runtime. What is called by either connection is the interface in
// k8s.io/cri-api; nothing above this package knows containerd.
package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/cri/bundle"
	"github.com/skiff-k8s/skiff/cri/registries"
)

// Config says where containerd keeps things and how it runs containers. What has a default may be left out.
type Config struct {
	// Root is the directory for images, snapshots and metadata; State for what ends with the machine's
	// uptime. Both are required.
	Root, State string
	// Address is the socket for crictl and ctr; by default containerd.sock in State.
	Address string

	// BinDir is where the bundled programs are unpacked to. A server without the bundle uses those that it
	// finds there. It is required.
	BinDir string

	// PauseImage names the image of the pods' first process; by default the bundled one.
	PauseImage string
	// ImageDir holds image archives that are imported at start: *.tar, *.tar.gz, *.tar.zst.
	ImageDir string
	// RegistryConfigDir holds a hosts.toml for each registry; by default /etc/skiff/certs.d.
	RegistryConfigDir string
	// Registries are written to the RegistryConfigDir at the start; nil: what is there was written by somebody else.
	Registries *registries.Registries

	// CNIBinDirs and CNIConfDir are the places of CNI plugins, besides BinDir, and of their configuration; by
	// default /opt/cni/bin and /etc/cni/net.d.
	CNIBinDirs []string
	CNIConfDir string

	// CgroupDriver is by default what DetectCgroupDriver says.
	CgroupDriver CgroupDriver
	// Snapshotter is by default overlayfs where that works, and native elsewhere.
	Snapshotter string
	// StatsPeriod is how often the runtime reads the usage of containers by itself, to tell how fast they use processor time;
	// by default an hour, and at least 10 s: each reading asks every shim. What they have used is read when it is asked for.
	StatsPeriod time.Duration
}

const shimName = "containerd-shim-runc-v2"

const (
	minStatsPeriod           = 10 * time.Second
	defaultStatsPeriod       = time.Hour
	diskStatsPeriod          = time.Minute // as often as upstream's kubelet looks
	defaultRegistryConfigDir = "/etc/skiff/certs.d"
	defaultCNIBinDir         = "/opt/cni/bin"
	defaultCNIConfDir        = "/etc/cni/net.d"
	// What containerd itself allows in one message. Lists of many containers are large.
	maxMessageSize = 16 << 20
	bufconnSize    = 64 << 10
	stopPatience   = 5 * time.Second
)

// Containerd is a containerd in this process. There can be one at a time.
type Containerd struct {
	config   Config
	listener *bufconn.Listener
	conn     *grpc.ClientConn
	ready    chan struct{}
}

// New prepares a containerd. It does nothing to the machine before Run.
func New(config Config) (*Containerd, error) {
	if config.Root == "" || config.State == "" || config.BinDir == "" {
		return nil, errors.New("containerd's root, state and program directories must be set")
	}
	c := &Containerd{config: config.withDefaults(), listener: bufconn.Listen(bufconnSize), ready: make(chan struct{})}
	var err error
	c.conn, err = grpc.NewClient("passthrough:///containerd",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize), grpc.MaxCallSendMsgSize(maxMessageSize)))
	return c, err
}

func (c Config) withDefaults() Config {
	if c.Address == "" {
		c.Address = filepath.Join(c.State, "containerd.sock")
	}
	if c.RegistryConfigDir == "" {
		c.RegistryConfigDir = defaultRegistryConfigDir
	}
	if len(c.CNIBinDirs) == 0 {
		c.CNIBinDirs = []string{defaultCNIBinDir}
	}
	if c.CNIConfDir == "" {
		c.CNIConfDir = defaultCNIConfDir
	}
	if c.CgroupDriver == "" {
		c.CgroupDriver = DetectCgroupDriver()
	}
	c.StatsPeriod = max(cmp.Or(c.StatsPeriod, defaultStatsPeriod), minStatsPeriod)
	return c
}

// Conn is a connection to the CRI services that needs no socket. Calls wait until the services are there.
func (c *Containerd) Conn() *grpc.ClientConn { return c.conn }

// CgroupDriver is the driver in use, which the kubelet has to use too.
func (c *Containerd) CgroupDriver() CgroupDriver { return c.config.CgroupDriver }

// Ready is closed when pods can be started: all plugins run, containers of an earlier run are taken over and
// the images of the image directory are there.
func (c *Containerd) Ready() <-chan struct{} { return c.ready }

// Dial connects to the CRI services of another runtime, at an address such as unix:///run/crio/crio.sock.
func Dial(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageSize), grpc.MaxCallSendMsgSize(maxMessageSize)))
}

var (
	registerOnce sync.Once   // containerd's registry of plugins is global,
	running      atomic.Bool // and so is its log
)

// errFatal says that a part of containerd wanted to end the process.
var errFatal = errors.New("containerd met a fatal error, which its last log line tells")

// Run runs containerd until ctx ends. Shims and containers go on after that.
func (c *Containerd) Run(ctx context.Context) error {
	if running.Swap(true) {
		return errors.New("a containerd runs in this process already")
	}
	defer running.Store(false)
	defer c.conn.Close()
	registerOnce.Do(registerHandoff)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	logger := klog.FromContext(ctx)
	redirectLogs(logger, func(int) { cancel(errFatal) })

	if c.config.Registries != nil {
		if err := c.config.Registries.WriteHosts(c.config.RegistryConfigDir); err != nil {
			return err
		}
	}
	serverConfig, err := c.prepare(ctx)
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	var services service
	started := time.Now()
	s, err := server.New(withHandoff(ctx, &services), serverConfig)
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	defer s.Stop()
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	s.Wait()
	// Before anybody can start a pod, the pause image has to be there.
	if err := c.importImages(ctx, services.client); err != nil {
		return fmt.Errorf("import images: %w", err)
	}
	stop, served, err := c.serve(services)
	if err != nil {
		return err
	}
	logger.Info("containerd is ready", "snapshotter", c.config.Snapshotter, "cgroupDriver", c.config.CgroupDriver,
		"address", c.config.Address, "took", time.Since(started).Round(time.Millisecond))
	close(c.ready)
	select {
	case <-ctx.Done():
		stop()
		<-served
	case err := <-served:
		return fmt.Errorf("serve CRI: %w", err)
	}
	if cause := context.Cause(ctx); errors.Is(cause, errFatal) {
		return cause
	}
	return nil
}

// serve serves CRI on the connection in memory. stop ends all calls and returns when they have ended.
func (c *Containerd) serve(services service) (stop func(), served <-chan error, err error) {
	var calls sync.WaitGroup
	grpcServer := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessageSize), grpc.MaxSendMsgSize(maxMessageSize),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			calls.Add(1)
			defer calls.Done()
			return handle(ctx, req)
		}))
	if err := services.cri.Register(grpcServer); err != nil {
		return nil, nil, fmt.Errorf("serve CRI: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- grpcServer.Serve(c.listener) }()
	stop = func() {
		c.conn.Close()
		// Not GracefulStop, which would wait for GetContainerEvents: that returns at the next event, if ever.
		grpcServer.Stop()
		ended := make(chan struct{})
		go func() { calls.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(stopPatience):
		}
	}
	return stop, done, nil
}

// prepare makes what containerd needs and returns its configuration.
func (c *Containerd) prepare(ctx context.Context) (*srvconfig.Config, error) {
	if err := c.providePrograms(); err != nil {
		return nil, err
	}
	if c.config.PauseImage == "" {
		index, err := bundle.Read()
		if err != nil {
			return nil, err
		}
		c.config.PauseImage = index.PauseRef
	}
	restrictOOMScore, err := c.probe(ctx)
	if err != nil {
		return nil, err
	}
	cfg := c.serverConfig(restrictOOMScore)
	return cfg, server.CreateTopLevelDirectories(cfg)
}

// providePrograms unpacks runc and the shim, and makes them be found. The search path is the only way to tell
// containerd where the shim is that works for the shims of an earlier run too; and only by its name does
// it know the shim well enough not to start it once more per pod, to ask what it can do.
func (c *Containerd) providePrograms() error {
	err := bundle.Unpack(c.config.BinDir)
	if errors.Is(err, bundle.ErrMissing) && exists(c.runc()) && exists(filepath.Join(c.config.BinDir, shimName)) {
		err = nil // the user has brought them
	}
	if err != nil {
		return err
	}
	path := os.Getenv("PATH")
	if first, _, _ := strings.Cut(path, ":"); first == c.config.BinDir {
		return nil
	}
	return os.Setenv("PATH", c.config.BinDir+":"+path)
}

func (c *Containerd) runc() string { return filepath.Join(c.config.BinDir, "runc") }

func (c *Containerd) probe(ctx context.Context) (restrictOOMScore bool, err error) {
	if c.config.Snapshotter == "" {
		if err := os.MkdirAll(c.config.Root, 0o700); err != nil {
			return false, err
		}
		if c.config.Snapshotter, err = probeSnapshotter(c.config.Root); err != nil {
			return false, fmt.Errorf("probe overlayfs: %w", err)
		}
		if c.config.Snapshotter == "native" {
			klog.FromContext(ctx).Info("The file system cannot hold overlays: images are copied for each container", "dir", c.config.Root)
		}
	}
	mayLower, err := mayLowerOOMScore()
	if err != nil {
		return false, fmt.Errorf("probe oom_score_adj: %w", err)
	}
	if !mayLower {
		klog.FromContext(ctx).Info("No CAP_SYS_RESOURCE: pods cannot be protected from the out-of-memory killer")
	}
	return !mayLower, nil
}

// table is a table of containerd's configuration file.
type table = map[string]any

// serverConfig is what would be /etc/containerd/config.toml.
func (c *Containerd) serverConfig(restrictOOMScore bool) *srvconfig.Config {
	images := table{
		"snapshotter":   c.config.Snapshotter,
		"pinned_images": table{"sandbox": c.config.PauseImage},
		"registry":      table{"config_path": c.config.RegistryConfigDir},
		// How much disk containers use is found out by walking over it.
		"stats_collect_period": int(diskStatsPeriod.Seconds()),
	}
	runtime := table{
		"restrict_oom_score_adj":              restrictOOMScore,
		"disable_apparmor":                    !exists("/sys/kernel/security/apparmor"),
		"tolerate_missing_hugetlb_controller": true,
		"disable_hugetlb_controller":          true,
		"netns_mounts_under_state_dir":        true,
		"enable_unprivileged_ports":           true,
		"enable_unprivileged_icmp":            true,
		"stats_collect_period":                c.config.StatsPeriod.String(),
		"cni": table{
			"bin_dirs":              append([]string{c.config.BinDir}, c.config.CNIBinDirs...), // the thin plugin is bundled
			"conf_dir":              c.config.CNIConfDir,
			"use_internal_loopback": true,
		},
		"containerd": table{
			"default_runtime_name": "runc",
			"runtimes": table{"runc": table{
				"runtime_type": "io.containerd.runc.v2",
				"sandboxer":    "podsandbox",
				"options":      table{"BinaryName": c.runc(), "SystemdCgroup": c.config.CgroupDriver == Systemd},
			}},
		},
	}
	return &srvconfig.Config{
		Version: 4,
		Root:    c.config.Root,
		State:   c.config.State,
		Plugins: table{
			"io.containerd.server.v1.grpc":  table{"address": c.config.Address},
			"io.containerd.server.v1.ttrpc": table{"address": c.config.Address + ".ttrpc"},
			"io.containerd.grpc.v1.cri":     table{"disable_tcp_service": true, "stream_server_address": "127.0.0.1", "stream_server_port": "0"},
			"io.containerd.cri.v1.images":   images,
			"io.containerd.cri.v1.runtime":  runtime,
			// What nobody uses any more is looked for every so often that it takes this share of the time: after 5 s at the soonest.
			"io.containerd.gc.v1.scheduler": table{"pause_threshold": 0.001},
		},
		RequiredPlugins: []string{"io.containerd.grpc.v1.cri", string(handoffType) + "." + handoffID},
		// It registers itself with the process's metrics, a second time after a restart within the process.
		DisabledPlugins: []string{"io.containerd.metrics.v1.grpc-prometheus"},
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
