// SPDX-License-Identifier: Apache-2.0

package garbagecollector

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	initialSync  = 30 * time.Second // how long to wait for all watches before the first deletion
	retryPartial = 30 * time.Second // when to ask again for API groups that could not be asked
)

// rediscover is when to ask discovery after something changed what it says: soon, and once more, because
// discovery follows with a delay.
var rediscover = []time.Duration{500 * time.Millisecond, 5 * time.Second}

// monitor feeds the graph until ctx ends.
func (c *controller) monitor(ctx context.Context, q reconcile.Queue) error {
	c.graph = newGraph(func(uid types.UID, after time.Duration) {
		q.AddAfter(types.NamespacedName{Name: string(uid)}, after)
	})
	m := &monitors{
		controller: c,
		running:    map[schema.GroupVersionResource]*monitor{},
		changed:    make(chan struct{}, 1),
		shared:     startedTypes(ctx, c.factory),
	}
	defer m.stopAll()

	complete := m.sync(ctx)
	m.waitForSync(ctx)
	c.graph.release()

	for {
		var again <-chan time.Time
		if !complete {
			again = time.After(retryPartial)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			complete = m.sync(ctx)
		case <-m.changed:
			for _, delay := range rediscover {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(delay):
				}
				complete = m.sync(ctx)
			}
		}
	}
}

// startedTypes are the types of the shared informers that run because somebody needs them anyway.
func startedTypes(ctx context.Context, factory informers.SharedInformerFactory) map[reflect.Type]bool {
	ended, cancel := context.WithCancel(ctx)
	cancel() // ask, do not wait
	started := map[reflect.Type]bool{}
	for t := range factory.WaitForCacheSyncWithContext(ended).Synced {
		started[t] = true
	}
	return started
}

// monitors are the watches of all resources.
type monitors struct {
	*controller
	running map[schema.GroupVersionResource]*monitor
	changed chan struct{} // signals that discovery may say something else now
	shared  map[reflect.Type]bool
}

// monitor is the watch of one resource.
type monitor struct {
	synced cache.DoneChecker
	stop   func()
}

// sync starts and stops watches so that they are what discovery says. It reports false if discovery did not know all.
func (m *monitors) sync(ctx context.Context) (complete bool) {
	logger := klog.FromContext(ctx)
	groups, lists, err := m.discovery.ServerGroupsAndResources()
	failed, isPartial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil {
		m.metrics.SyncErrors.Inc()
		logger.Info("Discovery is not complete", "err", err)
		if !isPartial {
			return false
		}
	}
	complete = err == nil
	found := newResources(groups, lists)
	wanted := map[schema.GroupVersionResource]bool{}
	for _, r := range found.watch {
		wanted[r.gvr] = true
		if m.running[r.gvr] != nil {
			continue
		}
		started, err := m.start(ctx, r)
		if err != nil {
			m.metrics.SyncErrors.Inc()
			logger.Error(err, "Watching for garbage", "resource", r.gvr)
			complete = false
			continue
		}
		m.running[r.gvr] = started
	}
	for gvr, running := range m.running {
		if _, unknown := failed[gvr.GroupVersion()]; unknown {
			if r, ok := m.previous(gvr); ok {
				found.byKind[r.gvk] = r
			}
			continue
		}
		if !wanted[gvr] {
			running.stop()
			delete(m.running, gvr)
		}
	}
	m.setResources(found)
	return complete
}

// previous returns what discovery said of a resource when it last could.
func (m *monitors) previous(gvr schema.GroupVersionResource) (resource, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.resources != nil {
		for _, r := range m.resources.byKind {
			if r.gvr == gvr {
				return r, true
			}
		}
	}
	return resource{}, false
}

// start watches one resource: by the shared informer if it runs anyway, else its metadata only.
func (m *monitors) start(ctx context.Context, r resource) (*monitor, error) {
	if obj, err := scheme.Scheme.New(r.gvk); err == nil && m.shared[reflect.TypeOf(obj)] {
		shared, err := m.factory.ForResource(r.gvr)
		if err != nil {
			return nil, fmt.Errorf("shared informer: %w", err)
		}
		return m.listen(shared.Informer(), r.gvk)
	}
	return m.watchMetadata(ctx, r), nil
}

func (m *monitors) listen(informer cache.SharedIndexInformer, kind schema.GroupVersionKind) (*monitor, error) {
	observe := func(obj any) {
		if o, ok := obj.(metav1.Object); ok {
			m.observe(kind, o)
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: observe,
		UpdateFunc: func(old, new any) {
			if o, ok := old.(metav1.Object); ok && o.GetUID() != new.(metav1.Object).GetUID() {
				m.remove(kind, o.GetUID())
			}
			observe(new)
		},
		DeleteFunc: func(obj any) {
			if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = tombstone.Obj
			}
			if o, ok := obj.(metav1.Object); ok {
				m.remove(kind, o.GetUID())
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return &monitor{
		synced: registration.HasSyncedChecker(),
		stop:   func() { _ = informer.RemoveEventHandler(registration) },
	}, nil
}

// watchMetadata runs a reflector that stores nothing but names and UIDs: the graph has the rest.
func (m *monitors) watchMetadata(ctx context.Context, r resource) *monitor {
	ctx, cancel := context.WithCancel(ctx)
	client := m.metadata.Resource(r.gvr)
	store := &sink{monitors: m, kind: r.gvk, uids: map[types.NamespacedName]types.UID{}, synced: make(chan struct{})}
	reflector := cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
				return client.List(ctx, options)
			},
			WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
				return client.Watch(ctx, options)
			},
		}, m.metadata),
		&metav1.PartialObjectMetadata{}, store,
		cache.ReflectorOptions{Name: "garbagecollector " + r.gvr.Resource, TypeDescription: r.gvk.String()},
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		reflector.RunWithContext(ctx)
	}()
	return &monitor{synced: store, stop: func() {
		cancel()
		<-done
	}}
}

func (m *monitors) observe(kind schema.GroupVersionKind, obj metav1.Object) {
	m.graph.observe(kind, obj)
	m.note(kind)
}

func (m *monitors) remove(kind schema.GroupVersionKind, uid types.UID) {
	m.graph.remove(uid)
	m.note(kind)
}

// note signals that discovery may have changed if the kind is one that changes it. What is there from the
// start, discovery knows.
func (m *monitors) note(kind schema.GroupVersionKind) {
	if !m.graph.released() {
		return
	}
	switch kind.GroupKind() {
	case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"},
		schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

func (m *monitors) waitForSync(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, initialSync)
	defer cancel()
	var checkers []cache.DoneChecker
	for _, running := range m.running {
		checkers = append(checkers, running.synced)
	}
	if !cache.WaitFor(limited, "", checkers...) && ctx.Err() == nil {
		klog.FromContext(ctx).Info("Not all resources could be listed in time; collecting garbage without them")
	}
}

func (m *monitors) stopAll() {
	for _, running := range m.running {
		running.stop()
	}
}

// sink is the store of a reflector: it passes everything on to the graph and remembers the UIDs, to know what
// a new list lacks.
type sink struct {
	monitors *monitors
	kind     schema.GroupVersionKind

	mu     sync.Mutex
	uids   map[types.NamespacedName]types.UID // guarded by mu
	once   sync.Once
	synced chan struct{} // closed after the first list
}

func (s *sink) Name() string          { return s.kind.String() }
func (s *sink) Done() <-chan struct{} { return s.synced }
func (s *sink) Resync() error         { return nil }
func (s *sink) Update(obj any) error  { return s.Add(obj) }

func (s *sink) Add(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("unexpected %T", obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(o)
	return nil
}

func (s *sink) addLocked(o metav1.Object) {
	key := reconcile.KeyOf(o)
	if uid, ok := s.uids[key]; ok && uid != o.GetUID() {
		s.monitors.remove(s.kind, uid)
	}
	s.uids[key] = o.GetUID()
	s.monitors.observe(s.kind, o)
}

func (s *sink) Delete(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("unexpected %T", obj)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uids, reconcile.KeyOf(o))
	s.monitors.remove(s.kind, o.GetUID())
	return nil
}

func (s *sink) Replace(list []any, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.uids
	s.uids = make(map[types.NamespacedName]types.UID, len(list))
	for _, obj := range list {
		o, ok := obj.(metav1.Object)
		if !ok {
			return fmt.Errorf("unexpected %T", obj)
		}
		s.uids[reconcile.KeyOf(o)] = o.GetUID()
		if gone[reconcile.KeyOf(o)] == o.GetUID() {
			delete(gone, reconcile.KeyOf(o))
		}
		s.monitors.observe(s.kind, o)
	}
	for _, uid := range gone {
		s.monitors.remove(s.kind, uid)
	}
	s.once.Do(func() { close(s.synced) })
	return nil
}
