// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// recorder is a backend that notes when it was called.
type recorder struct {
	takes time.Duration // per call

	mu       sync.Mutex
	calls    []call
	fail     error // answer of the next call
	notThere bool  // somebody removed the rules
}

type call struct {
	at       time.Time // when it began
	all      bool
	services int
}

func (r *recorder) call(all bool, services int) error {
	r.mu.Lock()
	r.calls = append(r.calls, call{time.Now(), all, services})
	err := r.fail
	r.fail = nil
	r.notThere = r.notThere && !all
	r.mu.Unlock()
	time.Sleep(r.takes)
	return err
}

func (r *recorder) update(_ context.Context, changed map[types.NamespacedName][]servicePort) error {
	return r.call(false, len(changed))
}

func (r *recorder) replace(_ context.Context, all map[types.NamespacedName][]servicePort, _ settings) error {
	return r.call(true, len(all))
}

func (r *recorder) intact(context.Context) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.notThere, nil
}

func (r *recorder) cleanup(context.Context) error { return nil }

// since returns the calls after a time.
func (r *recorder) since(start time.Time) []call {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range r.calls {
		if !c.at.Before(start) {
			return r.calls[i:]
		}
	}
	return nil
}

// inLoop runs a proxy with one Service on a recorder in virtual time.
func inLoop(t *testing.T, takes time.Duration, f func(r *recorder, change func())) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		svc := webService(nil)
		client := fake.NewClientset(svc, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
		factory := informers.NewSharedInformerFactory(client, 0)
		p, err := New(Config{NodeName: "here", HealthAddress: "none", MetricsAddress: "none"}, client, factory)
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{takes: takes}
		p.families[corev1.IPv4Protocol].backend = r
		p.families[corev1.IPv6Protocol].backend = &recorder{}
		factory.Start(ctx.Done())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(5 * time.Second) // quiet
		if calls := r.since(time.Time{}); len(calls) != 1 || !calls[0].all || calls[0].services != 1 {
			t.Fatalf("at start: %+v, want the one Service written", calls)
		}
		version := 0
		f(r, func() {
			version++
			svc = svc.DeepCopy()
			svc.Spec.Ports[0].Port = int32(version)
			svc.ResourceVersion = fmt.Sprint(1000 + version)
			if _, err := client.CoreV1().Services("ns").Update(ctx, svc, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
	})
}

// The first change after a quiet time is written at once.
func TestFirstChangeIsWrittenAtOnce(t *testing.T) {
	inLoop(t, 10*time.Millisecond, func(r *recorder, change func()) {
		start := time.Now()
		change()
		synctest.Wait()
		if calls := r.since(start); len(calls) != 1 || calls[0].all || calls[0].at != start {
			t.Errorf("calls after a change: %+v, want one update at %v", calls, start)
		}
	})
}

// What one change brings is written at once each time: a Service, its endpoints, and a few changes of these.
func TestFewChangesDoNotWait(t *testing.T) {
	inLoop(t, 20*time.Millisecond, func(r *recorder, change func()) {
		for range 5 {
			start := time.Now()
			change()
			time.Sleep(25 * time.Millisecond)
			if calls := r.since(start); len(calls) != 1 || calls[0].at != start {
				t.Errorf("calls after a change: %+v, want one update at %v", calls, start)
			}
		}
	})
}

// Changes in quick succession are gathered; cheap syncs are closer together than MinSyncPeriod.
func TestChangesAreGathered(t *testing.T) {
	for _, test := range []struct{ takes, apart time.Duration }{
		{10 * time.Millisecond, 110 * time.Millisecond}, // a tenth of the time
		{500 * time.Millisecond, 1500 * time.Millisecond},
	} {
		inLoop(t, test.takes, func(r *recorder, change func()) {
			start := time.Now()
			for range 300 {
				change()
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(2 * time.Second)
			calls := r.since(start)
			for i := 1; i < len(calls); i++ {
				if calls[i].at.Sub(start) < 1500*time.Millisecond {
					continue // what was saved up
				}
				if apart := calls[i].at.Sub(calls[i-1].at); apart < test.apart || apart > test.apart+10*time.Millisecond {
					t.Errorf("syncs that take %v are %v apart, want %v", test.takes, apart, test.apart)
				}
			}
			saved := max(2, int(2*time.Second/(10*test.takes)))
			if most := int(3*time.Second/test.apart) + 2 + saved; len(calls) > most || len(calls) < most-saved-1 {
				t.Errorf("%d syncs that take %v in 3s of changes, want at most %d", len(calls), test.takes, most)
			}
		})
	}
}

// After a failure everything is written.
func TestFailureIsRepaired(t *testing.T) {
	inLoop(t, 0, func(r *recorder, change func()) {
		start := time.Now()
		r.fail = errors.New("busy")
		change()
		time.Sleep(3 * time.Second)
		if calls := r.since(start); len(calls) != 2 || calls[0].all || !calls[1].all || calls[1].at.Sub(start) != time.Second {
			t.Errorf("calls: %+v, want an update that fails, and everything 1s later", calls)
		}
	})
}

// Rules that somebody removes come back, and as long as nothing happens nothing is written.
func TestRemovedRulesComeBack(t *testing.T) {
	inLoop(t, 0, func(r *recorder, change func()) {
		start := time.Now()
		time.Sleep(30 * time.Minute)
		if calls := r.since(start); len(calls) != 0 {
			t.Errorf("calls in quiet: %+v", calls)
		}
		r.mu.Lock()
		r.notThere = true
		r.mu.Unlock()
		start = time.Now()
		time.Sleep(31 * time.Second)
		if calls := r.since(start); len(calls) != 1 || !calls[0].all {
			t.Errorf("calls after rules were removed: %+v, want everything once", calls)
		}
	})
}
