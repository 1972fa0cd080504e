// SPDX-License-Identifier: Apache-2.0

// Package scheduler gives pods their nodes.
//
// Read in this order: events.go turns what happens in the cluster into changes of the node cache (cache/)
// and of the queue of waiting pods (queue/); schedule.go takes one pod at a time from the queue and picks
// the best node, asking the plugins (plugins/, by the rules of framework/); bind.go tells the API
// server, while the next pod is already looked at; failure.go deals with pods that found no node.
//
// The scheduler writes nothing but bindings, the PodScheduled condition and nominated node of pods, events,
// what preemption deletes, and what volumes need. It deals only with pods whose schedulerName is that of one of its
// profiles.
//
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/
package scheduler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/cache"
	"github.com/skiff-k8s/skiff/scheduler/extender"
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/metrics"
	"github.com/skiff-k8s/skiff/scheduler/plugins"
	"github.com/skiff-k8s/skiff/scheduler/queue"
)

// Config says how to schedule. The zero value is what kube-scheduler does without a configuration.
type Config struct {
	// Profiles by scheduler name; none means one, "default-scheduler", with the default plugins.
	Profiles []Profile
	// Extenders are asked about all profiles' pods.
	Extenders []*extender.Extender
	// PercentageOfNodesToScore of which enough fitting nodes end the search for more; 0 means from 50 % down to
	// 5 % the larger the cluster.
	PercentageOfNodesToScore int32
	// InitialBackoff (1 s) and MaxBackoff (10 s) of a pod between attempts.
	InitialBackoff, MaxBackoff time.Duration
	// MaxUnschedulable is how long a pod waits for an event that may help before it is tried anyway (5 min).
	MaxUnschedulable time.Duration
	// StartInformers starts those informers of the factory that do not run yet: some are asked for only when a pod needs
	// them. It has to let them run for as long as the others. nil starts them until Run ends, after which it cannot be called again.
	StartInformers func()
	// Metrics is where the scheduler's metrics are registered; nil for nowhere.
	Metrics metrics.Registry
}

// Profile is a set of plugins that pods choose by their schedulerName.
type Profile struct {
	SchedulerName string
	// Plugins in the order in which they are asked; nil means plugins.Default().
	Plugins []plugins.Entry
	// PercentageOfNodesToScore, if not nil, is this profile's own.
	PercentageOfNodesToScore *int32
}

// Scheduler is one scheduler with all its profiles.
type Scheduler struct {
	client     kubernetes.Interface
	informers  informers.SharedInformerFactory
	recorder   events.EventRecorder
	own        *eventWriter // the same; nil if it is somebody else's
	pods       corelisters.PodLister
	synced     []toolscache.DoneChecker
	profiles   map[string]*framework.Profile
	percentage map[string]int32 // of nodes to score, by profile
	extenders  []*extender.Extender

	cache *cache.Cache
	queue *queue.Queue
	lazy  *lazyInformers

	preparing preparing
	running   atomic.Bool // a Run is under way

	metrics *metrics.Set

	// The scheduling loop's own.
	snapshot framework.Snapshot
	next     int // where in snapshot.Nodes the next search starts
	attempts int
	search   search
	statuses []*framework.Status
	feasible []*framework.NodeInfo

	background sync.WaitGroup // bindings, and what plugins started
}

// New makes a scheduler and registers it for events. factory is started by the caller, before or during Run. A nil recorder
// means that the scheduler writes its events itself, as "default-scheduler" or the name of its first profile.
func New(config Config, client kubernetes.Interface, factory informers.SharedInformerFactory, recorder events.EventRecorder) (*Scheduler, error) {
	config.setDefaults()
	s := &Scheduler{
		client: client, informers: factory, recorder: recorder,
		pods:       factory.Core().V1().Pods().Lister(),
		profiles:   make(map[string]*framework.Profile),
		percentage: make(map[string]int32),
		extenders:  slices.Clone(config.Extenders),
		cache:      cache.New(),
		snapshot:   *framework.NewSnapshot(),
	}
	if err := extender.Sort(s.extenders); err != nil {
		return nil, err
	}
	if s.recorder == nil {
		s.own = &eventWriter{name: config.Profiles[0].SchedulerName}
		s.recorder = s.own
	}
	less := func(a, b *framework.QueuedPod) bool { return s.profiles[config.Profiles[0].SchedulerName].Less(a, b) }
	s.metrics = metrics.New(s.count)
	s.queue = queue.New(queue.Config{
		InitialBackoff: config.InitialBackoff, MaxBackoff: config.MaxBackoff, MaxUnschedulable: config.MaxUnschedulable,
		Latest:   s.latest,
		Incoming: s.metrics.Entered,
	}, less, s.profileOf)

	s.lazy = &lazyInformers{factory: factory, startAll: config.StartInformers, notify: s.notify, synced: make(map[framework.Kind]toolscache.DoneChecker)}
	if config.Metrics != nil {
		if err := s.metrics.Register(config.Metrics); err != nil {
			return nil, fmt.Errorf("register the scheduler's metrics: %w", err)
		}
	}
	handle := &framework.Handle{
		Client: client, Recorder: s.recorder, Metrics: s.metrics, Informers: factory,
		Need: s.lazy.need, Recheck: s.queue.Recheck, Nominator: s.queue.Nominated, Go: s.background.Go,
		TakeBack: s.preparing.takeBack,
		Shared:   sharing(),
	}
	if len(s.extenders) > 0 {
		handle.Preempt = s.preempt
	}
	for _, p := range config.Profiles {
		s.percentage[p.SchedulerName] = ptr.Deref(p.PercentageOfNodesToScore, config.PercentageOfNodesToScore)
		if err := s.addProfile(p, handle); err != nil {
			return nil, err
		}
	}
	if err := s.watch(); err != nil {
		return nil, fmt.Errorf("watching pods, nodes and namespaces: %w", err)
	}
	return s, nil
}

// count is for the metrics.
func (s *Scheduler) count() metrics.State {
	m := metrics.State{Rejected: make(map[metrics.Rejector]int)}
	m.Active, m.Backoff, _, _ = s.queue.Pending()
	m.Events = s.queue.Remembered()
	m.Nodes, m.Pods, m.AssumedPods = s.cache.Count()
	s.queue.Waiting(func(p *framework.QueuedPod) {
		if p.Gate != "" {
			m.Gated++
		} else {
			m.Unschedulable++
		}
		for plugin := range p.Rejectors {
			m.Rejected[metrics.Rejector{Plugin: plugin, Profile: p.Pod.Spec.SchedulerName}]++
		}
	})
	return m
}

// sharing makes a Handle.Shared. Plugins are made one after the other.
func sharing() func(string, func() any) any {
	values := make(map[string]any)
	return func(name string, make func() any) any {
		if values[name] == nil {
			values[name] = make()
		}
		return values[name]
	}
}

func (c *Config) setDefaults() {
	if len(c.Profiles) == 0 {
		c.Profiles = []Profile{{SchedulerName: v1.DefaultSchedulerName}}
	}
	setDefault(&c.InitialBackoff, time.Second)
	setDefault(&c.MaxBackoff, 10*time.Second)
	setDefault(&c.MaxUnschedulable, 5*time.Minute)
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

func (s *Scheduler) addProfile(p Profile, handle *framework.Handle) error {
	if s.profiles[p.SchedulerName] != nil {
		return fmt.Errorf("profile %q is given twice", p.SchedulerName)
	}
	entries := p.Plugins
	if entries == nil {
		entries = plugins.Default()
	}
	var made []framework.Weighted
	for _, e := range entries {
		plugin, err := e.New(handle)
		if err != nil {
			return fmt.Errorf("profile %q: %w", p.SchedulerName, err)
		}
		made = append(made, framework.Weighted{Plugin: plugin, Weight: e.Weight, Off: e.Off, Rank: e.Rank})
	}
	profile, err := framework.NewProfile(p.SchedulerName, made)
	if err != nil {
		return err
	}
	for _, other := range s.profiles {
		if !profile.SortsLike(other) {
			return fmt.Errorf("profiles %q and %q: the queue sort plugin must be the same in all profiles", p.SchedulerName, other.SchedulerName)
		}
	}
	s.profiles[p.SchedulerName] = profile
	return nil
}

// profileOf returns nil for pods that are another scheduler's.
func (s *Scheduler) profileOf(pod *v1.Pod) *framework.Profile {
	return s.profiles[pod.Spec.SchedulerName]
}

// Run schedules pods until ctx ends, and lets bindings that are under way come to an end. It may be called again then, as by a
// leader that is elected again; meanwhile nothing is forgotten.
func (s *Scheduler) Run(ctx context.Context) error {
	if s.own != nil {
		stop, err := s.own.start(ctx, s.client)
		if err != nil {
			return err
		}
		defer stop()
	}
	defer s.background.Wait()
	s.running.Store(true)
	defer s.running.Store(false)
	s.queue.Open()
	stop := context.AfterFunc(ctx, s.queue.Close)
	defer stop()
	if !toolscache.WaitFor(ctx, "", s.synced...) {
		return nil // ended before it began
	}
	klog.FromContext(ctx).V(2).Info("Scheduling")
	for p := s.queue.Pop(); p != nil; p = s.queue.Pop() {
		s.scheduleOne(ctx, p)
	}
	return nil
}
