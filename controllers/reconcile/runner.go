// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// DefaultLimit is how many reconciles run at the same time if Runner.Limit is 0.
const DefaultLimit = 32

// Runner runs controllers.
type Runner struct {
	Controllers []Controller
	// Limit is how many reconciles of all controllers run at the same time.
	Limit int
	// ClockJumps, if set, calls jumped whenever the clock was set, until ctx ends. All keys that wait for a time are then
	// looked at: what RequeueAfter was computed from is no longer true.
	ClockJumps func(ctx context.Context, jumped func()) error
}

// Run runs the controllers until ctx ends and returns after everything that it started has ended.
// It may be called again afterwards: the handlers on the informers end with it.
func (r *Runner) Run(ctx context.Context) error {
	limit := r.Limit
	if limit == 0 {
		limit = DefaultLimit
	}
	slots := make(chan struct{}, limit)
	group, ctx := errgroup.WithContext(ctx)

	queues := make([]*queue, len(r.Controllers))
	sources := sources{}
	for i := range r.Controllers {
		q := &queue{ctx: ctx, group: group, controller: &r.Controllers[i], slots: slots}
		queues[i] = q
		for _, w := range q.controller.Watches {
			s := sources.of(w.informer)
			s.handlers = append(s.handlers, func(old, new any) { w.handle(q, old, new) })
		}
	}
	defer func() {
		for _, q := range queues {
			q.stop()
		}
		for _, s := range sources {
			s.unregister(ctx)
		}
	}()
	for _, s := range sources {
		if err := s.register(); err != nil {
			if ctx.Err() != nil {
				return nil // and with it the informers
			}
			return err
		}
	}

	if r.ClockJumps != nil {
		group.Go(func() error {
			err := r.ClockJumps(ctx, func() {
				for _, q := range queues {
					q.lookAgain()
				}
			})
			if err != nil { // timers do what they can
				klog.FromContext(ctx).Error(err, "Controllers will not hear when the clock is set")
			}
			return nil
		})
	}
	for _, q := range queues {
		checkers := q.controller.checkers(sources)
		group.Go(func() error { return q.startWhenSynced(checkers) })
	}
	<-ctx.Done()
	for _, q := range queues {
		q.stop()
	}
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// source is an informer with all handlers for it.
type source struct {
	informer     cache.SharedIndexInformer
	handlers     fanOut
	registration cache.ResourceEventHandlerRegistration
}

func (s *source) register() error {
	registration, err := s.informer.AddEventHandler(s.handlers)
	if err != nil {
		return fmt.Errorf("register a handler: %w", err)
	}
	s.registration = registration
	return nil
}

func (s *source) unregister(ctx context.Context) {
	if s.registration == nil {
		return
	}
	if err := s.informer.RemoveEventHandler(s.registration); err != nil {
		klog.FromContext(ctx).Error(err, "Removing an event handler")
	}
}

// sources are told apart by their indexers: factories wrap an informer anew each time they are asked for it.
type sources map[cache.Indexer]*source

func (s sources) of(informer cache.SharedIndexInformer) *source {
	found := s[informer.GetIndexer()]
	if found == nil {
		found = &source{informer: informer}
		s[informer.GetIndexer()] = found
	}
	return found
}

// checkers returns what tells that all informers the controller uses have synced.
func (c *Controller) checkers(sources sources) []cache.DoneChecker {
	var checkers []cache.DoneChecker
	for _, w := range c.Watches {
		checkers = append(checkers, sources.of(w.informer).registration.HasSyncedChecker())
	}
	for _, informer := range c.Reads {
		checkers = append(checkers, informer.HasSyncedChecker())
	}
	return checkers
}

// queue is the work queue of one controller. It costs nothing until its first key.
type queue struct {
	ctx        context.Context // of Run: ends all that the queue started
	group      *errgroup.Group
	controller *Controller
	slots      chan struct{} // shared by all controllers: one element per running reconcile

	mu      sync.Mutex
	typed   workqueue.TypedRateLimitingInterface[types.NamespacedName] // nil until the first key
	synced  bool                                                       // the informers have synced
	started bool                                                       // work is running; implies typed != nil and synced
	stopped bool                                                       // nothing is taken any more
	waiting map[types.NamespacedName]bool                              // keys that asked to be looked at later, and were not since
}

func (q *queue) Add(key types.NamespacedName) { q.AddAfter(key, 0) }

func (q *queue) AddAfter(key types.NamespacedName, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped || q.controller.Reconcile == nil {
		return
	}
	if q.typed == nil {
		q.typed = q.controller.newQueue()
	}
	q.typed.AddAfter(key, d)
	q.startLocked()
}

// requeue adds a key that asked to be looked at later.
func (q *queue) requeue(key types.NamespacedName, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == nil {
		q.waiting = map[types.NamespacedName]bool{}
	}
	q.waiting[key] = true
	q.typed.AddAfter(key, after)
}

// begun notes that a key is looked at.
func (q *queue) begun(key types.NamespacedName) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, key)
}

// lookAgain adds all keys that wait.
func (q *queue) lookAgain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key := range q.waiting {
		q.typed.Add(key)
	}
}

// startWhenSynced lets work begin once the informers have synced, then runs the controller's Loop, if any.
func (q *queue) startWhenSynced(checkers []cache.DoneChecker) error {
	if !cache.WaitFor(q.ctx, "", checkers...) {
		return nil
	}
	q.mu.Lock()
	q.synced = true
	q.startLocked()
	q.mu.Unlock()
	if q.controller.Loop == nil {
		return nil
	}
	if err := q.controller.Loop(q.ctx, q); err != nil && q.ctx.Err() == nil {
		return fmt.Errorf("controller %s: %w", q.controller.Name, err)
	}
	return nil
}

// startLocked starts the work if there are keys and they may be worked on. The caller holds mu.
func (q *queue) startLocked() {
	if q.started || q.stopped || !q.synced || q.typed == nil {
		return
	}
	q.started = true
	q.group.Go(func() error {
		q.work()
		return nil
	})
}

func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	if q.typed != nil {
		q.typed.ShutDown()
	}
}

// work takes keys and reconciles each in a goroutine of its own, within the limits.
func (q *queue) work() {
	workers := q.controller.Workers
	if workers == 0 {
		workers = 5
	}
	own := make(chan struct{}, workers)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		own <- struct{}{}
		key, shutdown := q.typed.Get()
		if shutdown {
			return
		}
		q.slots <- struct{}{}
		running.Go(func() {
			q.process(key)
			<-q.slots
			<-own
		})
	}
}

func (q *queue) process(key types.NamespacedName) {
	defer q.typed.Done(key)
	q.begun(key)
	logger := klog.FromContext(q.ctx).WithValues("controller", q.controller.Name, "key", key)
	result, err := q.reconcile(klog.NewContext(q.ctx, logger), key)
	switch {
	case err == nil, apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// In a namespace that is being deleted nothing can be created any more, and need not be.
		q.typed.Forget(key)
		if result.RequeueAfter > 0 {
			q.requeue(key, result.RequeueAfter)
		}
	case q.ctx.Err() != nil:
	default:
		if behind(err) {
			logger.V(4).Info("Reconciling again", "reason", err.Error())
		} else {
			logger.Error(err, "Reconciling")
		}
		q.typed.AddRateLimited(key)
	}
}

// behind tells whether an error only means that the cache was behind: the event is on its way.
func behind(err error) bool {
	return errors.Is(err, ErrStale) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)
}

func (q *queue) reconcile(ctx context.Context, key types.NamespacedName) (result Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return q.controller.Reconcile(ctx, key)
}

func (c *Controller) newQueue() workqueue.TypedRateLimitingInterface[types.NamespacedName] {
	minBackoff, maxBackoff := c.MinBackoff, c.MaxBackoff
	if minBackoff == 0 {
		minBackoff = 5 * time.Millisecond
	}
	if maxBackoff == 0 {
		maxBackoff = 1000 * time.Second
	}
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedMaxOfRateLimiter(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](minBackoff, maxBackoff),
			&workqueue.TypedBucketRateLimiter[types.NamespacedName]{Limiter: rate.NewLimiter(10, 100)},
		),
		workqueue.TypedRateLimitingQueueConfig[types.NamespacedName]{Name: c.Name, Clock: calmClock{}},
	)
}

// calmClock slows the ticker down by which each queue keeps a metric of unfinished work fresh: twice a second
// for every controller is most of what an idle process would do.
type calmClock struct{ clock.RealClock }

const metricPeriod = 15 * time.Second

func (c calmClock) NewTicker(d time.Duration) clock.Ticker {
	return c.RealClock.NewTicker(max(d, metricPeriod))
}
