// SPDX-License-Identifier: Apache-2.0

// Package datastore is where the cluster's objects lie: an etcd in this process, reached without a socket.
//
// Open starts the etcd server and returns a Store. RESTOptions hands the storage of one resource, watch
// cache in front, to a registry; keys and envelope are those of upstream's kube-apiserver, so that either
// can open the other's data. Nothing here knows what a resource means.
//
// The client calls the server's functions directly (etcdserver/api/v3client), which makes twice the creates
// and four times the gets of loopback TCP at half the CPU.
package datastore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/utils/clock"
)

// Config says where the data lies and how careful etcd is with it.
type Config struct {
	// Dir holds the write-ahead log and the database. It is created with mode 0700.
	Dir string
	// TickMs is etcd's clock in milliseconds (0: 100). A lower one is ready sooner, by one or two ticks, and idles hotter.
	TickMs uint
	// UnsafeNoFsync trades durability for speed; for tests only.
	UnsafeNoFsync bool
	// CompactionInterval is how much history is kept for watchers (0: 5 minutes, as upstream).
	CompactionInterval time.Duration
	// Logger takes etcd's own messages (nil: errors go to klog, warnings at verbosity 2).
	Logger *zap.Logger
}

// Store is a running etcd with its in-process client.
type Store struct {
	server    *etcdserver.EtcdServer
	client    *kubernetes.Client
	compactor interface {
		etcd3.Compactor
		Stop()
	}
	counts    *Counts
	fieldSets fieldSets
	passage   passage // of the time in which watch caches forget
	closeOnce sync.Once
	stopWork  context.CancelFunc
	work      sync.WaitGroup // what goes on in the background
}

// Open starts etcd on cfg.Dir and returns once it serves, or with ctx's error if that ends first.
// The caller closes the Store.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.New(klogCore{})
	}
	if err := prepare(cfg.Dir, cfg.Logger); err != nil {
		return nil, err
	}
	serverConfig, err := cfg.serverConfig()
	if err != nil {
		return nil, err
	}
	server, err := etcdserver.NewServer(serverConfig)
	if err != nil {
		return nil, fmt.Errorf("open etcd in %s: %w", cfg.Dir, err)
	}
	server.Start()
	select {
	case <-server.ReadyNotify():
	case <-server.StopNotify():
		return nil, fmt.Errorf("open etcd in %s: the server stopped while starting", cfg.Dir)
	case <-ctx.Done():
		server.Stop()
		return nil, fmt.Errorf("open etcd in %s: %w", cfg.Dir, ctx.Err())
	}

	c := v3client.New(server)
	kc := &kubernetes.Client{Client: c}
	kc.Kubernetes = kc
	announceWatchProgress(ctx, c)
	interval := cfg.CompactionInterval
	if interval == 0 {
		interval = 5 * time.Minute
	}
	s := &Store{
		server:    server,
		client:    kc,
		counts:    newCounts(),
		passage:   passage{now: time.Now, after: time.After},
		compactor: etcd3.NewCompactor(c, interval, clock.RealClock{}, nil),
	}
	ctx, s.stopWork = context.WithCancel(context.WithoutCancel(ctx))
	if !cfg.UnsafeNoFsync {
		s.work.Go(func() { keepRoom(ctx, cfg.Dir, interval) })
	}
	return s, nil
}

// Client is the in-process etcd client. It stays owned by the Store.
func (s *Store) Client() *clientv3.Client { return s.client.Client }

// Counts knows how many objects there are of each resource.
func (s *Store) Counts() *Counts { return s.counts }

// Health tells whether the store answers, by a read that the whole of it has to agree to. It takes 2 s at most.
func (s *Store) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := s.Client().Get(ctx, "health"); err != nil {
		return fmt.Errorf("read from etcd: %w", err)
	}
	return nil
}

// Close stops etcd after what was acknowledged is on disk. It may be called more than once.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.stopWork()
		s.work.Wait()
		s.compactor.Stop()
		_ = s.client.Close()
		s.server.Stop()
	})
	return nil
}

// batchInterval is how often the database itself is written: a wake-up each, also when there is nothing to write. What was
// acknowledged is in the write-ahead log before.
const batchInterval = time.Second

// serverConfig is a single member without listeners. What embed would fill in is set here, since
// etcdserver.NewServer is called directly.
func (cfg Config) serverConfig() (config.ServerConfig, error) {
	tick := cfg.TickMs
	if tick == 0 {
		tick = 100
	}
	urls, err := memberURLs()
	if err != nil {
		return config.ServerConfig{}, err
	}
	const name = "default"
	return config.ServerConfig{
		Name:                        name,
		ClientURLs:                  urls[name],
		PeerURLs:                    urls[name],
		DataDir:                     cfg.Dir,
		InitialPeerURLsMap:          urls,
		InitialClusterToken:         "skiff",
		NewCluster:                  !exists(filepath.Join(cfg.Dir, "member")),
		SnapshotCount:               10000,
		SnapshotCatchUpEntries:      100, // they lie in memory for members that are behind, of which there are none
		MaxSnapFiles:                5,
		MaxWALFiles:                 5,
		TickMs:                      tick,
		ElectionTicks:               2, // a single member only ever waits for itself
		InitialElectionTickAdvance:  true,
		BootstrapTimeout:            10 * time.Second,
		CompactionBatchLimit:        1000,
		CompactionSleepInterval:     10 * time.Millisecond,
		QuotaBackendBytes:           2 << 30,
		BackendBatchInterval:        batchInterval,
		MaxTxnOps:                   10000,
		MaxRequestBytes:             1.5 * 1024 * 1024,
		MaxConcurrentStreams:        1 << 20,
		WarningApplyDuration:        time.Second,
		WarningUnaryRequestDuration: 3 * time.Second,
		StrictReconfigCheck:         true,
		AuthToken:                   "simple",
		BcryptCost:                  10,
		TokenTTL:                    300,
		PreVote:                     true,
		Logger:                      cfg.Logger,
		WatchProgressNotifyInterval: 10 * time.Minute,
		UnsafeNoFsync:               cfg.UnsafeNoFsync,
		DowngradeCheckTime:          0, // there is one member: nothing to negotiate a downgrade with
		MaxLearners:                 1,
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(name, cfg.Logger),
		Metrics:                     "basic",
	}, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// announceWatchProgress tells apiserver's storage that this etcd answers progress requests. An in-process
// client has no endpoint to ask about its version, and without the answer every consistent list would
// bypass the watch cache (ten times slower).
func announceWatchProgress(ctx context.Context, c *clientv3.Client) {
	feature.DefaultFeatureSupportChecker.CheckClient(ctx, progressProbe{c}, storage.RequestWatchProgress)
}

type progressProbe struct{ client *clientv3.Client }

func (p progressProbe) Endpoints() []string { return []string{"inproc"} }

func (p progressProbe) Status(ctx context.Context, endpoint string) (*clientv3.StatusResponse, error) {
	return p.client.Status(ctx, endpoint)
}
