// SPDX-License-Identifier: Apache-2.0

package shutdown

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// machine is a logind and a node whose pods take a while to end. It keeps a diary.
type machine struct {
	events chan bool
	began  time.Time
	takes  map[types.UID]time.Duration
	pods   []*v1.Pod

	mu    sync.Mutex
	diary []string
}

func (m *machine) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.diary = append(m.diary, fmt.Sprintf("%v ", time.Since(m.began))+fmt.Sprintf(format, args...))
}

func (m *machine) Inhibit(context.Context, time.Duration) (func(), error) {
	m.note("inhibit")
	return func() { m.note("release") }, nil
}

func (m *machine) Watch(context.Context) (<-chan bool, error) { return m.events, nil }

func (m *machine) Pods() []*v1.Pod { return m.pods }

func (m *machine) End(pod types.UID, grace int64) <-chan struct{} {
	m.note("end %s within %d s", pod, grace)
	ended := make(chan struct{})
	time.AfterFunc(m.takes[pod], func() { close(ended) })
	return ended
}

func (m *machine) Changed() {}

func pod(name string, priority int32, grace int64) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority, TerminationGracePeriodSeconds: &grace}}
}

// Ordinary pods end first, then critical ones; each group has its period, and the machine goes down after that.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &machine{
			events: make(chan bool), began: time.Now(), takes: map[types.UID]time.Duration{"quick": time.Second, "slow": time.Hour, "system": 2 * time.Second},
			pods: []*v1.Pod{pod("system", 2_000_001_000, 30), pod("quick", 0, 5), pod("slow", 0, 600)},
		}
		manager := New(Groups(30*time.Second, 10*time.Second), m, m)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- manager.Run(ctx) }()
		m.events <- true
		synctest.Wait()
		if !manager.Begun() {
			t.Error("the shutdown has not begun")
		}
		m.events <- false // it is called off
		synctest.Wait()
		if manager.Begun() {
			t.Error("the shutdown was called off, and goes on")
		}
		close(m.events)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want := []string{
			"0s inhibit", "0s end quick within 5 s", "0s end slow within 20 s", "20s end system within 10 s", "22s release", "22s inhibit", "22s release",
		}
		if !slices.Equal(m.diary, want) {
			t.Errorf("diary %q\nwant  %q", m.diary, want)
		}
	})
}

// Pods belong to the group with the highest priority that is not above theirs.
func TestGroups(t *testing.T) {
	groups := Config{{100, time.Second}, {1000, time.Second}, {10_000, time.Second}}
	for priority, want := range map[int32]int{-5: 0, 0: 0, 100: 0, 999: 0, 1000: 1, 9999: 1, 10_000: 2, 2_000_000_000: 2} {
		if got := groups.of(pod("p", priority, 30)); got != want {
			t.Errorf("priority %d is of group %d, want %d", priority, got, want)
		}
	}
	if groups.period() != 3*time.Second {
		t.Errorf("all have %v", groups.period())
	}
}

func TestOff(t *testing.T) {
	if err := New(Config{}, nil, nil).Run(t.Context()); err != nil {
		t.Error(err)
	}
}
