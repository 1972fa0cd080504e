// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
)

// A watch cache keeps past events, each with its object, for watchers that begin in the past: all of the last 75 s. A time of load makes
// room for many, and an old event only goes when a new one takes its place: if no more come, be it that all objects are deleted,
// those of 10,000 pods take 200 MB for ever. So when it has become calm this file takes their places, with events of an object that is
// none: its key is outside of what anybody can watch or list.

// past is the storage that a watch cache follows, with a say in what the cache remembers.
type past struct {
	storage.Interface
	newObject func() runtime.Object
	time      passage

	mu     sync.Mutex
	window window // what the cache remembers; guarded by mu
	marked bool   // the cache has the object that is none; guarded by mu
}

// passage is how time passes.
type passage struct {
	now   func() time.Time
	after func(time.Duration) <-chan time.Time
}

func newPast(of storage.Interface, newObject func() runtime.Object, time passage) *past {
	return &past{Interface: of, newObject: newObject, time: time, window: window{times: make([]int64, leastRoom)}}
}

const (
	// nobody is the name of the object that is none. No object can have it.
	nobody = "\x00"
	// calmBefore is how many events of the last 75 s may be lost: who wants to go on from before them has to list anew.
	calmBefore = 10
	// worthForgetting is how much room for events the cache must have made.
	worthForgetting = 8 * leastRoom
	// pace is how many events take places at a time: as many as the slowest of watchers may be behind. breath is how long they have for it.
	pace   = 10
	breath = 10 * time.Millisecond
)

// key is a watch cache's function of keys for objects that include the one that is none.
func (p *past) key(of func(runtime.Object) (string, error)) func(runtime.Object) (string, error) {
	return func(obj runtime.Object) (string, error) {
		if m, err := meta.Accessor(obj); err == nil && m.GetName() == nobody {
			return nobody, nil
		}
		return of(obj)
	}
}

// attributes is the same for its function of attributes.
func (p *past) attributes(of storage.AttrFunc) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		if m, err := meta.Accessor(obj); err == nil && m.GetName() == nobody {
			return nil, nil, nil
		}
		return of(obj)
	}
}

// GetList is how a cache begins anew.
func (p *past) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	p.begin()
	return p.Interface.GetList(ctx, key, opts, list)
}

func (p *past) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.window.start, p.marked = p.window.end, false
}

// Watch is how a cache follows its storage.
func (p *past) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	w, err := p.Interface.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	f := &follower{
		past: p, Interface: w, version: opts.ResourceVersion, listing: opts.SendInitialEvents != nil && *opts.SendInitialEvents,
		out: make(chan watch.Event), stopped: make(chan struct{}),
	}
	if f.listing {
		p.begin()
	}
	go f.run()
	return f, nil
}

// follower passes events on, and adds its own.
type follower struct {
	*past
	watch.Interface
	version string // of the last event
	listing bool   // the first events are no past: they are what there is
	out     chan watch.Event
	stop    sync.Once
	stopped chan struct{}
}

func (f *follower) Stop() {
	f.stop.Do(func() { close(f.stopped) })
	f.Interface.Stop()
}

func (f *follower) ResultChan() <-chan watch.Event { return f.out }

func (f *follower) run() {
	defer close(f.out)
	if !f.unmark() { // of a watch before this one that ended too soon
		return
	}
	defer f.unmark()
	var look <-chan time.Time // nil as long as there is little to forget
	for {
		select {
		case event, more := <-f.Interface.ResultChan():
			if !more {
				return
			}
			if f.note(event) && look == nil {
				look = f.time.after(cacher.DefaultEventFreshDuration)
			}
			if !f.send(event) {
				return
			}
		case <-look:
			again, ok := f.forget()
			if !ok {
				return
			}
			look = nil
			if again > 0 {
				look = f.time.after(again)
			}
		}
	}
}

// send tells whether the cache gets the event; who has stopped the watch does not.
func (f *follower) send(event watch.Event) bool {
	select {
	case <-f.stopped:
		return false
	default:
	}
	select {
	case f.out <- event:
		return true
	case <-f.stopped:
		return false
	}
}

// note follows what the cache will remember, and tells whether that is much.
func (f *follower) note(event watch.Event) bool {
	m, err := meta.Accessor(event.Object)
	if err != nil || event.Type == watch.Error {
		return false
	}
	f.version = m.GetResourceVersion()
	if event.Type == watch.Bookmark {
		f.listing = f.listing && m.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true"
		return false
	}
	if f.listing {
		return false
	}
	at := f.time.now()
	if timed, ok := event.Object.(storage.WatchEventWithRecordTime); ok {
		at = timed.RecordTime()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.window.add(at.UnixNano())
	return len(f.window.times) >= worthForgetting
}

// forget takes the places of a few past events, if it is calm, and tells when to do so again; 0 is never.
func (f *follower) forget() (again time.Duration, ok bool) {
	for range pace {
		f.mu.Lock()
		at, left, calm := f.window.next(f.time.now().UnixNano())
		kind := watch.Modified
		if left && !f.marked {
			kind, f.marked = watch.Added, true
		}
		if left {
			f.window.mark(at)
		}
		f.mu.Unlock()
		switch {
		case !calm:
			return cacher.DefaultEventFreshDuration, f.unmark()
		case !left:
			return 0, f.unmark()
		}
		if !f.send(f.mark(kind, at)) {
			return 0, false
		}
	}
	return breath, true
}

// unmark lets the cache have the object that is none no longer.
func (f *follower) unmark() bool {
	f.mu.Lock()
	marked := f.marked
	f.mu.Unlock()
	if !marked {
		return true
	}
	at := f.time.now().UnixNano()
	if !f.send(f.mark(watch.Deleted, at)) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.marked = false
	f.window.mark(at)
	return true
}

func (f *follower) mark(kind watch.EventType, at int64) watch.Event {
	obj := f.newObject()
	if m, err := meta.Accessor(obj); err == nil { // it is an API object
		m.SetName(nobody)
		m.SetResourceVersion(f.version)
	}
	return watch.Event{Type: kind, Object: &recorded{Object: obj, at: time.Unix(0, at)}}
}

// recorded is an object of an event that was recorded then.
type recorded struct {
	runtime.Object
	at time.Time
}

var _ storage.WatchEventWithRecordTime = (*recorded)(nil)

func (r *recorded) GetObjectMeta() metav1.Object {
	m, _ := meta.Accessor(r.Object) // it is an API object
	return m
}

func (r *recorded) RecordTime() time.Time { return r.at }

func (r *recorded) Unwrap() runtime.Object { return r.Object }

// window is how much room for events a watch cache has, and when each was recorded: it does not tell, so this follows its rules, which are
// in k8s.io/apiserver/pkg/storage/cacher/watch_cache_history.go. A test compares the two.
type window struct {
	times      []int64 // in nanoseconds; that of event i is at i % len(times)
	start, end int     // of what it remembers
	marks      int     // how many of the last events are of no object
}

const (
	leastRoom = 100
	mostRoom  = 100 << 10
	fresh     = int64(cacher.DefaultEventFreshDuration)
)

func (w *window) full() bool { return w.end-w.start == len(w.times) }

func (w *window) at(i int) int64 { return w.times[i%len(w.times)] }

// add notes an event of an object, mark one of none.
func (w *window) add(at int64) {
	w.take(at)
	w.marks = 0
}

func (w *window) mark(at int64) {
	w.take(at)
	w.marks++
}

func (w *window) take(at int64) {
	if room := len(w.times); w.full() {
		switch {
		case at-w.at(w.start) < fresh:
			w.resize(min(2*room, mostRoom))
		case at-w.at(w.end-room/4) > fresh:
			w.resize(max(room/2, leastRoom))
		}
	}
	if w.full() {
		w.start++
	}
	w.times[w.end%len(w.times)] = at
	w.end++
}

func (w *window) resize(room int) {
	if room == len(w.times) {
		return
	}
	w.start = max(w.start, w.end-room)
	times := make([]int64, room)
	for i := w.start; i < w.end; i++ {
		times[i%room] = w.at(i)
	}
	w.times = times
}

// next is when to say that an event was recorded so that the cache has less room after it, or can have; left is false if that is not needed
// any more. It is calm if hardly anything has happened in the time that the cache is for.
func (w *window) next(now int64) (at int64, left, calm bool) {
	old := now - fresh - int64(time.Second)
	if w.end-w.start >= calmBefore+w.marks && w.at(w.end-w.marks-calmBefore) > old {
		return 0, false, false
	}
	switch {
	case w.marks > mostRoom: // the cache is not what this takes it for
		return 0, false, true
	case !w.full(): // only a cache that is full gets smaller
		at = old
	case len(w.times) > leastRoom:
		at = now
	case w.marks < leastRoom: // all that it had is to go
		at = now
	default:
		return 0, false, true
	}
	return at, true, true
}
