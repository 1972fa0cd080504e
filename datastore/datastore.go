// SPDX-License-Identifier: Apache-2.0

// Package datastore is where the cluster's objects lie: an etcd in this process, reached without a socket.
//
// Open starts the etcd server and returns a Store. RESTOptions hands the storage of one resource, watch
// cache in front, to a registry; keys and envelope are those of upstream's kube-apiserver, so that either
// can open the other's data. Nothing here knows what a resource means.
//
// The client calls the server's functions directly (etcdserver/api/v3client), which makes twice the creates
// and four times the gets of loopback TCP at half the CPU. Several servers have a member of one etcd cluster each
// (members.go); a single one listens nowhere.
package datastore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.etcd.io/etcd/client/pkg/v3/types"
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
	// TickMs is etcd's clock in milliseconds (0: 300). A lower one is ready sooner, by one or two ticks, and idles hotter.
	TickMs uint
	// UnsafeNoFsync trades durability for speed; for tests only.
	UnsafeNoFsync bool
	// CompactionInterval is how much history is kept for watchers (0: 5 minutes, as upstream).
	CompactionInterval time.Duration
	// Name is the server's, by which the members of a cluster are told apart.
	Name string
	// Peers is how other members reach this one (nil: there are never any).
	Peers *Peers
	// Join are the members of a cluster that has invited this one, which is among them. It counts as long as there is no data.
	Join []Member
	// Reset makes a cluster of one of the data, and forgets all other members.
	Reset bool
	// Waiting is told how many members there are if too few of them answer. Optional.
	Waiting func(members int)
	// Logger takes etcd's own messages (nil: errors go to klog, warnings at verbosity 2).
	Logger *zap.Logger
}

// Store is a running etcd with its in-process client.
type Store struct {
	cfg       Config
	server    *etcdserver.EtcdServer
	client    *kubernetes.Client
	watches   *watches
	compactor interface {
		etcd3.Compactor
		Stop()
	}
	counts    *Counts
	fieldSets fieldSets
	passage   passage // of the time in which watch caches forget
	closeOnce sync.Once
	working   context.Context // of work
	stopWork  context.CancelFunc
	work      sync.WaitGroup // what goes on in the background

	listening sync.Mutex
	peers     *http.Server // of other members; guarded by listening, nil while there are none
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
	known, err := prepare(cfg.Dir, cfg.Logger)
	if err != nil {
		return nil, err
	}
	serverConfig, err := cfg.serverConfig(max(known, len(cfg.Join)))
	if err != nil {
		return nil, err
	}
	resyncSeldom()
	server, err := etcdserver.NewServer(serverConfig)
	if err != nil {
		return nil, fmt.Errorf("open etcd in %s: %w", cfg.Dir, err)
	}
	server.Start()
	s := &Store{cfg: cfg, server: server, counts: newCounts(), passage: passage{now: time.Now, after: time.After}}
	s.working, s.stopWork = context.WithCancel(context.WithoutCancel(ctx))
	c := v3client.New(server)
	s.watches = newWatches(func() clientv3.Watcher { return v3client.New(server).Watcher }, c.KV, func() int64 { return server.KV().Rev() })
	c.KV, c.Watcher = patient{c.KV, s.majority}, s.watches
	if err := s.becomeReady(ctx); err != nil {
		s.stopWork()
		s.work.Wait()
		_ = c.Close()
		s.stop()
		return nil, fmt.Errorf("open etcd in %s: %w", cfg.Dir, err)
	}

	kc := &kubernetes.Client{Client: c}
	kc.Kubernetes = kc
	announceWatchProgress(ctx, c)
	interval := cfg.CompactionInterval
	if interval == 0 {
		interval = 5 * time.Minute
	}
	s.client = kc
	s.compactor = etcd3.NewCompactor(c, interval, clock.RealClock{}, nil)
	if !cfg.UnsafeNoFsync {
		s.work.Go(func() { keepRoom(s.working, cfg.Dir, interval) })
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
		return errors.Join(s.majority(), fmt.Errorf("read from etcd: %w", err))
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
		s.stop()
	})
	return nil
}

// stop ends etcd, which may hand leadership over to another member before.
func (s *Store) stop() {
	s.server.Stop()
	s.listening.Lock()
	defer s.listening.Unlock()
	if s.peers != nil {
		_ = s.peers.Close()
	}
}

// batchInterval is how often the database itself is written: a wake-up each, also when there is nothing to write. What was
// acknowledged is in the write-ahead log before.
const batchInterval = time.Second

// What etcd keeps in memory for members that are behind, in entries of its log. One that is further behind gets the whole
// database. A single member keeps few: there is nobody to be behind. See keepForOthers.
const (
	catchUpAlone   = 100
	catchUpSeveral = 5000 // etcd's default
)

// After electionTicks without a leader there is an election, as is etcd's default; but not after a second: so long a busy machine
// with a slow disk is silent now and then. Each tick wakes a server that has nothing to do.
const (
	defaultTickMs = 300
	electionTicks = 10
)

// serverConfig is a member without listeners, one of that many if its data says so already. What embed would fill in is
// set here, since etcdserver.NewServer is called directly.
func (cfg Config) serverConfig(members int) (config.ServerConfig, error) {
	name := cmp.Or(cfg.Name, "default")
	own, err := types.NewURLs([]string{cfg.peerURL()})
	if err != nil {
		return config.ServerConfig{}, fmt.Errorf("parse etcd's member address: %w", err)
	}
	cluster := types.URLsMap{name: own}
	if len(cfg.Join) > 0 {
		if cluster, err = urlsOf(cfg.Join); err != nil {
			return config.ServerConfig{}, err
		}
	}
	catchUp := uint64(catchUpAlone)
	if members > 1 {
		catchUp = catchUpSeveral
	}
	serverConfig := config.ServerConfig{
		Name:                        name,
		ClientURLs:                  own, // which nobody calls: clients are in the process
		PeerURLs:                    own,
		DataDir:                     cfg.Dir,
		InitialPeerURLsMap:          cluster,
		InitialClusterToken:         uuid.NewString(), // no two clusters ever have members of the same ID
		NewCluster:                  len(cfg.Join) == 0 && !exists(filepath.Join(cfg.Dir, "member")),
		SnapshotCount:               10000,
		SnapshotCatchUpEntries:      catchUp,
		MaxSnapFiles:                5,
		MaxWALFiles:                 5,
		TickMs:                      cmp.Or(cfg.TickMs, defaultTickMs),
		ElectionTicks:               electionTicks,
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
		DowngradeCheckTime:          0, // nobody asks etcd for a downgrade
		MaxLearners:                 1,
		ServerFeatureGate:           features.NewDefaultServerFeatureGate(name, cfg.Logger),
		Metrics:                     "basic",
		ForceNewCluster:             cfg.Reset,
	}
	if cfg.Peers != nil {
		serverConfig.PeerTLSInfo = cfg.Peers.Dial
	}
	return serverConfig, nil
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
