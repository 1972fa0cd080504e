// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// calls counts the calls of Reconcile per key.
type calls struct {
	mu sync.Mutex
	n  map[types.NamespacedName]int
}

func (c *calls) add(key types.NamespacedName) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[types.NamespacedName]int{}
	}
	c.n[key]++
	return c.n[key]
}

func (c *calls) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[types.NamespacedName{Namespace: "default", Name: name}]
}

func configMap(name, uid string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)}}
}

// start runs a controller on ConfigMaps.
func start(t *testing.T, client *fake.Clientset, build func(factory informers.SharedInformerFactory) Controller) {
	t.Helper()
	factory := informers.NewSharedInformerFactory(client, 0)
	run(t, factory, &Runner{Controllers: []Controller{build(factory)}})
}

// run runs a runner until the test ends.
func run(t *testing.T, factory informers.SharedInformerFactory, runner *Runner) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	factory.Start(ctx.Done())
	done := make(chan error)
	go func() { done <- runner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
	synctest.Wait()
}

func watching(reconcile Func) func(informers.SharedInformerFactory) Controller {
	return func(factory informers.SharedInformerFactory) Controller {
		return Controller{
			Name:      "test",
			Reconcile: reconcile,
			Watches:   []Watch{OnSelf[*corev1.ConfigMap](factory.Core().V1().ConfigMaps().Informer())},
		}
	}
}

func TestErrorsAreRetriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen calls
		start(t, fake.NewClientset(configMap("a", "1")), watching(func(_ context.Context, key types.NamespacedName) (Result, error) {
			if seen.add(key) < 4 {
				return Result{}, errors.New("not yet")
			}
			return Result{}, nil
		}))
		time.Sleep(34 * time.Millisecond) // 5 + 10 + 20 ms of back-off
		synctest.Wait()
		if n := seen.of("a"); n != 3 {
			t.Errorf("%d calls after 34ms, want 3", n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := seen.of("a"); n != 4 {
			t.Errorf("%d calls in the end, want 4", n)
		}
	})
}

func TestRequeueAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen calls
		start(t, fake.NewClientset(configMap("a", "1")), watching(func(_ context.Context, key types.NamespacedName) (Result, error) {
			seen.add(key)
			return Result{RequeueAfter: time.Minute}, nil
		}))
		time.Sleep(150 * time.Second)
		synctest.Wait()
		if n := seen.of("a"); n != 3 {
			t.Errorf("%d calls in 150s, want 3", n)
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen calls
		start(t, fake.NewClientset(configMap("a", "1")), watching(func(_ context.Context, key types.NamespacedName) (Result, error) {
			if seen.add(key) == 1 {
				panic("oh")
			}
			return Result{}, nil
		}))
		time.Sleep(time.Second)
		synctest.Wait()
		if n := seen.of("a"); n != 2 {
			t.Errorf("%d calls, want 2", n)
		}
	})
}

func TestOneKeyIsReconciledByOneWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(configMap("a", "1"), configMap("b", "2"))
		var mu sync.Mutex
		running, most := map[string]int{}, 0
		start(t, client, watching(func(_ context.Context, key types.NamespacedName) (Result, error) {
			mu.Lock()
			running[key.Name]++
			most = max(most, running[key.Name])
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running[key.Name]--
			mu.Unlock()
			return Result{}, nil
		}))
		for range 5 {
			if _, err := client.CoreV1().ConfigMaps("default").Update(t.Context(), configMap("a", "1"), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if most != 1 {
			t.Errorf("%d reconciles of one key at the same time", most)
		}
	})
}

// A recreated object is a deletion and an addition, even when the watch saw only an update.
func TestRecreatedObject(t *testing.T) {
	var events []string
	handler := fanOut{func(old, new any) {
		switch {
		case old == nil:
			events = append(events, "add "+string(new.(*corev1.ConfigMap).UID))
		case new == nil:
			events = append(events, "delete "+string(old.(*corev1.ConfigMap).UID))
		default:
			events = append(events, "update")
		}
	}}
	handler.OnUpdate(configMap("a", "1"), configMap("a", "2"))
	if len(events) != 2 || events[0] != "delete 1" || events[1] != "add 2" {
		t.Errorf("events are %q", events)
	}
}

// A controller without objects has no goroutines of its own.
func TestNoObjectsNoGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
		build := watching(func(context.Context, types.NamespacedName) (Result, error) { return Result{}, nil })
		many := make([]Controller, 50)
		for i := range many {
			many[i] = build(factory)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		synctest.Wait()
		before := runtime.NumGoroutine()
		done := make(chan error)
		go func() { done <- (&Runner{Controllers: many}).Run(ctx) }()
		synctest.Wait()
		if added := runtime.NumGoroutine() - before; added > 5 { // Run itself and the one handler
			t.Errorf("50 idle controllers cost %d goroutines", added)
		}
		cancel()
		<-done
		factory.Shutdown()
	})
}

func TestExpectations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := NewExpectations()
		a, b := types.NamespacedName{Name: "a"}, types.NamespacedName{Name: "b"}
		e.ExpectDeletions("owner", a, b)
		e.Deleted("owner", a)
		e.Deleted("owner", a) // seen twice: as an update and as a deletion
		if e.Satisfied("owner") {
			t.Error("satisfied before b was deleted")
		}
		e.Deleted("owner", b)
		if !e.Satisfied("owner") {
			t.Error("not satisfied after both were deleted")
		}
		e.ExpectCreations("owner", 1)
		time.Sleep(ExpectationsTimeout - time.Second)
		if left := e.Left("owner"); e.Satisfied("owner") || left != time.Second {
			t.Errorf("a second before the timeout it is to wait for %s", left)
		}
		time.Sleep(time.Second)
		if !e.Satisfied("owner") {
			t.Error("still waiting after the timeout")
		}
	})
}

// keys is a queue that only remembers.
type keys []types.NamespacedName

func (k *keys) Add(key types.NamespacedName) { *k = append(*k, key) }

func (k *keys) AddAfter(key types.NamespacedName, _ time.Duration) { k.Add(key) }

// The owner before a change and the one after it are queued; by one kind of watch also when the object is new.
func TestOwnersAreQueued(t *testing.T) {
	kind := appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	owned, free := configMap("c", "1"), configMap("c", "1")
	owned.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}}, kind)}
	foreign := configMap("c", "1")
	foreign.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}}, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	for name, test := range map[string]struct {
		old, new    any
		all, butNew bool
	}{
		"added": {nil, owned, true, false}, "changed": {owned, owned, true, true}, "deleted": {owned, nil, true, true},
		"released": {owned, free, true, true}, "adopted": {free, owned, true, true},
		"of nobody": {free, free, false, false}, "of another kind": {foreign, foreign, false, false},
	} {
		for _, watch := range []struct {
			Watch
			queued bool
		}{{OnOwned[*corev1.ConfigMap](nil, kind), test.all}, {OnOwnedButNew[*corev1.ConfigMap](nil, kind), test.butNew}} {
			var q keys
			watch.handle(&q, test.old, test.new)
			if queued := slices.Contains(q, types.NamespacedName{Namespace: "default", Name: "agent"}); queued != watch.queued {
				t.Errorf("%s: queued is %v, want %v", name, queued, watch.queued)
			}
		}
	}
}

// What is due is deleted as it was seen; what has changed since is left for its next event.
func TestExpiring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		object := configMap("a", "1")
		object.ResourceVersion = "7"
		due, ends := time.Now().Add(time.Hour), true
		var deleted []metav1.DeleteOptions
		var answer error
		e := Expiring[*corev1.ConfigMap]{
			Get: func(key types.NamespacedName) (*corev1.ConfigMap, error) {
				if key.Name != "a" {
					return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), key.Name)
				}
				return object, nil
			},
			Due: func(*corev1.ConfigMap) (time.Time, bool) { return due, ends },
			Delete: func(_ context.Context, _ *corev1.ConfigMap, options metav1.DeleteOptions) error {
				deleted = append(deleted, options)
				return answer
			},
		}
		reconcile := func(name string) (Result, error) {
			return e.Reconcile(t.Context(), types.NamespacedName{Namespace: "default", Name: name})
		}
		if result, err := reconcile("a"); err != nil || result.RequeueAfter != time.Hour {
			t.Errorf("not yet due: %v, %v", result, err)
		}
		if result, err := reconcile("gone"); err != nil || result.RequeueAfter != 0 {
			t.Errorf("gone: %v, %v", result, err)
		}
		ends = false
		if result, err := reconcile("a"); err != nil || result.RequeueAfter != 0 || len(deleted) > 0 {
			t.Errorf("never due: %v, %v", result, err)
		}
		ends = true
		time.Sleep(time.Hour)
		if _, err := reconcile("a"); err != nil || len(deleted) != 1 || *deleted[0].Preconditions.UID != "1" || *deleted[0].Preconditions.ResourceVersion != "7" {
			t.Errorf("due: %v, deleted with %v", err, deleted)
		}
		answer = apierrors.NewConflict(corev1.Resource("configmaps"), "a", errors.New("changed"))
		if _, err := reconcile("a"); err != nil {
			t.Errorf("changed: %v", err)
		}
		answer = errors.New("no")
		if _, err := reconcile("a"); !errors.Is(err, answer) {
			t.Errorf("failed: %v", err)
		}
	})
}

// When the clock was set, all keys that wait for a time are looked at, and wait anew.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen calls
		jump := make(chan struct{})
		factory := informers.NewSharedInformerFactory(fake.NewClientset(configMap("waits", "1"), configMap("done", "2")), 0)
		runner := &Runner{
			Controllers: []Controller{watching(func(_ context.Context, key types.NamespacedName) (Result, error) {
				seen.add(key)
				if key.Name == "done" {
					return Result{}, nil
				}
				return Result{RequeueAfter: time.Hour}, nil
			})(factory)},
			ClockJumps: func(ctx context.Context, jumped func()) error {
				for {
					select {
					case <-jump:
						jumped()
					case <-ctx.Done():
						return nil
					}
				}
			},
		}
		run(t, factory, runner)
		for n := 2; n < 4; n++ {
			jump <- struct{}{}
			synctest.Wait()
			if waits, done := seen.of("waits"), seen.of("done"); waits != n || done != 1 {
				t.Errorf("after %d jumps: %d and %d calls, want %d and 1", n-1, waits, done, n)
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := seen.of("waits"); n != 4 {
			t.Errorf("%d calls after an hour, want 4", n)
		}
	})
}

func TestEarlier(t *testing.T) {
	for _, test := range []struct{ a, b, want time.Duration }{{0, 0, 0}, {1, 2, 1}, {2, 1, 1}, {0, 1, 1}, {1, 0, 1}, {-1, 1, 1}, {1, -1, 1}} {
		if got := Earlier(test.a, test.b); got != test.want {
			t.Errorf("of %d and %d, %d is the earlier one", test.a, test.b, got)
		}
	}
}

// A period that began in what is now the future begins now.
func TestLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for since, want := range map[time.Duration]time.Duration{0: time.Minute, -20 * time.Second: 40 * time.Second, -time.Hour: -59 * time.Minute, time.Hour: time.Minute} {
			if got := Left(time.Now().Add(since), time.Minute); got != want {
				t.Errorf("what began %s from now has %s left, want %s", since, got, want)
			}
		}
	})
}
