// SPDX-License-Identifier: Apache-2.0

package datastore

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	cachermetrics "k8s.io/apiserver/pkg/storage/cacher/metrics"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/component-base/metrics/legacyregistry"
)

// shelf stores ConfigMaps, and knows how many objects of them there are in memory.
type shelf struct {
	storage.Interface
	t    *testing.T
	live *atomic.Int64
}

// counting is a codec that counts the objects that it made and that are still there.
type counting struct {
	apiruntime.Codec
	live *atomic.Int64
}

func (c counting) Decode(data []byte, defaults *schema.GroupVersionKind, into apiruntime.Object) (apiruntime.Object, *schema.GroupVersionKind, error) {
	obj, kind, err := c.Codec.Decode(data, defaults, into)
	if m, ok := obj.(*corev1.ConfigMap); ok {
		c.live.Add(1)
		runtime.AddCleanup(m, func(live *atomic.Int64) { live.Add(-1) }, c.live)
	}
	return obj, kind, err
}

func newShelf(t *testing.T, p passage) *shelf {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	store, err := Open(ctx, Config{Dir: t.TempDir(), UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	store.passage = p
	s := &shelf{t: t, live: new(atomic.Int64)}
	info, _ := apiruntime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), apiruntime.ContentTypeProtobuf)
	codec := scheme.Codecs.CodecForVersions(info.Serializer, scheme.Codecs.UniversalDeserializer(), corev1.SchemeGroupVersion, corev1.SchemeGroupVersion)
	options := store.RESTOptions(corev1.Resource("configmaps"), Layout{Codec: counting{codec, s.live}, KeyPrefix: "configmaps"})
	attributes := func(obj apiruntime.Object) (labels.Set, fields.Set, error) {
		m, err := meta.Accessor(obj)
		return m.GetLabels(), fields.Set{"metadata.name": m.GetName()}, err
	}
	var destroy func()
	s.Interface, destroy, err = options.Decorator(options.StorageConfig, "/configmaps", func(obj apiruntime.Object) (string, error) {
		m, err := meta.Accessor(obj)
		return "/configmaps/" + m.GetName(), err
	}, func() apiruntime.Object { return &corev1.ConfigMap{} }, func() apiruntime.Object { return &corev1.ConfigMapList{} }, attributes, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	for s.ReadinessCheck() != nil {
		if ctx.Err() != nil {
			t.Fatal("the watch cache is not ready")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return s
}

func key(i int) string { return fmt.Sprint("/configmaps/m-", i) }

// each does something with that many objects.
func (s *shelf) each(n int, do func(ctx context.Context, i int) error) {
	s.t.Helper()
	group, ctx := errgroup.WithContext(s.t.Context())
	group.SetLimit(16)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	if err := group.Wait(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) create(ctx context.Context, i int) error {
	return s.Create(ctx, key(i), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m-", i)}}, &corev1.ConfigMap{}, 0)
}

func (s *shelf) delete(ctx context.Context, i int) error {
	return s.Delete(ctx, key(i), &corev1.ConfigMap{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
}

func (s *shelf) list() *corev1.ConfigMapList {
	s.t.Helper()
	list := &corev1.ConfigMapList{}
	if err := s.GetList(s.t.Context(), "/configmaps/", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, list); err != nil {
		s.t.Fatal(err)
	}
	return list
}

// watch returns the events that somebody sees who watches, like "ADDED m-1".
func (s *shelf) watch(version string) <-chan string {
	s.t.Helper()
	w, err := s.Watch(s.t.Context(), "/configmaps/", storage.ListOptions{ResourceVersion: version, Recursive: true, Predicate: storage.Everything})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(w.Stop)
	seen := make(chan string, 100_000)
	go func() {
		defer close(seen)
		for event := range w.ResultChan() {
			name := ""
			if m, err := meta.Accessor(event.Object); err == nil {
				name = m.GetName()
			}
			seen <- fmt.Sprintf("%s %s", event.Type, name)
		}
	}()
	return seen
}

func (s *shelf) next(events <-chan string) string {
	s.t.Helper()
	select {
	case event := <-events:
		return event
	case <-time.After(30 * time.Second):
		s.t.Fatal("no event")
		return ""
	}
}

// room is how many events the watch cache has room for, as it says.
func room(t *testing.T) float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != "apiserver_watch_cache_capacity" && family.GetName() != "watch_cache_capacity" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "resource" && label.GetValue() == "configmaps" {
					return metric.GetGauge().GetValue()
				}
			}
		}
	}
	t.Fatal("the watch cache does not tell its capacity")
	return 0
}

// After a time of load, and of calm, a watch cache has forgotten what happened then. Nobody who watches sees anything of it, and who has
// seen all goes on from there.
func TestPastIsForgotten(t *testing.T) {
	cachermetrics.Register()
	const n = 1500
	var later atomic.Int64 // by how much it is later than it is
	s := newShelf(t, passage{
		now:   func() time.Time { return time.Now().Add(time.Duration(later.Load())) },
		after: func(d time.Duration) <-chan time.Time { return time.After(d / 500) },
	})
	s.each(n, s.create)
	s.each(n, s.delete)
	last := s.list().ResourceVersion
	all := s.watch(last)
	runtime.GC()
	before := s.live.Load()
	if room(t) < worthForgetting || before < n {
		t.Fatalf("the cache has room for %v events and there are %d objects: too few for this test", room(t), before)
	}

	later.Store(int64(10 * time.Minute))
	deadline := time.Now().Add(time.Minute)
	for s.live.Load() > before/5 || room(t) > leastRoom {
		if time.Now().After(deadline) {
			t.Fatalf("there is room for %v events, and of %d objects %d are left", room(t), before, s.live.Load())
		}
		time.Sleep(50 * time.Millisecond)
		runtime.GC()
	}
	if items := s.list().Items; len(items) != 0 {
		t.Errorf("the list has %v", items)
	}
	resumed := s.watch(last)
	if err := s.create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	for _, w := range []<-chan string{all, resumed} {
		if got, want := s.next(w), fmt.Sprint("ADDED m-", n); got != want {
			t.Errorf("%s is seen, want %s", got, want)
		}
	}
	stats, err := s.Stats(t.Context())
	if err != nil || stats.ObjectCount != 1 {
		t.Errorf("there are %d objects, %v; want 1", stats.ObjectCount, err)
	}
}

// What is recent is not forgotten, and no more than a few of what a cache has room for anyway.
func TestWindow(t *testing.T) {
	second := int64(time.Second)
	burst := func(n int) *window {
		w := &window{times: make([]int64, leastRoom)}
		for i := range n {
			w.add(int64(i) * second / 100)
		}
		return w
	}
	for _, tc := range []struct {
		name   string
		events int
		wait   int64 // after the last
		room   int   // afterwards
		calm   bool
	}{
		{"few events", 50, 80, 100, true},
		{"in the middle of it", 3000, 1, 3200, false},
		{"soon after", 3000, 70, 3200, false},
		{"later", 3000, 80, 100, true},
		{"when the cache has just become full", 3200, 80, 100, true},
		{"when it has just grown", 3201, 80, 100, true},
		{"very many", 200_000, 80, 100, true},
	} {
		w := burst(tc.events)
		now := w.at(w.end-1) + tc.wait*second
		marks, calm := 0, true
		for {
			at, left, still := w.next(now)
			calm = still
			if !left || !still {
				break
			}
			w.mark(at)
			if marks++; marks > mostRoom {
				t.Fatalf("%s: it does not end", tc.name)
			}
		}
		if len(w.times) != tc.room || calm != tc.calm || calm && w.marks < min(leastRoom, tc.events) {
			t.Errorf("%s: room for %d events, the last %d of nobody, calm %v; want %d, calm %v", tc.name, len(w.times), w.marks, calm, tc.room, tc.calm)
		}
	}
}

// scripted is a storage that somebody else lets happen what happens.
type scripted struct {
	storage.Interface
	events *watch.FakeWatcher
}

func (s *scripted) Watch(context.Context, string, storage.ListOptions) (watch.Interface, error) {
	s.events = watch.NewFakeWithChanSize(10, false)
	return s.events, nil
}

// A watch that ends in the middle of it leaves nothing behind: the next one, which goes on without a list, takes it away.
func TestForgettingIsInterrupted(t *testing.T) {
	from := &scripted{}
	p := newPast(from, func() apiruntime.Object { return &corev1.ConfigMap{} }, passage{
		now: time.Now, after: func(time.Duration) <-chan time.Time { return time.After(0) },
	})
	for range 2000 {
		p.window.add(time.Now().Add(-time.Hour).UnixNano())
	}
	follow := func(version string) watch.Interface {
		t.Helper()
		w, err := p.Watch(t.Context(), "/configmaps", storage.ListOptions{ResourceVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	next := func(w watch.Interface) string {
		t.Helper()
		select {
		case event := <-w.ResultChan():
			m, err := meta.Accessor(event.Object)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s %q %s", event.Type, m.GetName(), m.GetResourceVersion())
		case <-time.After(30 * time.Second):
			t.Fatal("no event")
			return ""
		}
	}
	first := follow("1")
	from.events.Modify(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", ResourceVersion: "2"}})
	for _, want := range []string{`MODIFIED "m" 2`, `ADDED "\x00" 2`, `MODIFIED "\x00" 2`} {
		if got := next(first); got != want {
			t.Fatalf("the cache gets %s, want %s", got, want)
		}
	}
	first.Stop()
	for range first.ResultChan() { // until it has ended
	}
	second := follow("3")
	if got, want := next(second), `DELETED "\x00" 3`; got != want {
		t.Errorf("the next watch begins with %s, want %s", got, want)
	}
	second.Stop()
	for range second.ResultChan() {
	}
	third := follow("4")
	from.events.Add(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "5"}})
	if got, want := next(third), `ADDED "n" 5`; got != want {
		t.Errorf("the one after it begins with %s, want %s", got, want)
	}
}
