// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"cmp"
	"context"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// picky is all the plugins that a queue needs: it sorts, hints at new nodes, and gates pods with a label.
type picky struct{}

func (picky) Name() string { return "Picky" }
func (picky) Less(a, b *framework.QueuedPod) bool {
	return cmp.Or(cmp.Compare(framework.Priority(b.Pod), framework.Priority(a.Pod)), a.Timestamp.Compare(b.Timestamp)) < 0
}
func (picky) Bind(context.Context, *v1.Pod, string) *framework.Status { return nil }
func (picky) Hints() []framework.Hint {
	return []framework.Hint{
		{Kind: framework.Node, Action: framework.Add},
		{Kind: framework.TargetPod, Action: framework.UpdatePodLabel},
	}
}

func (picky) PreEnqueue(pod *v1.Pod) *framework.Status {
	if pod.Labels["gate"] != "" {
		return framework.RejectForGood("gated")
	}
	return nil
}

func inQueue(t *testing.T, story func(q *Queue)) {
	t.Helper()
	profile, err := framework.NewProfile("test", []framework.Weighted{{Plugin: picky{}}})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		config := Config{
			InitialBackoff: time.Second, MaxBackoff: 10 * time.Second, MaxUnschedulable: 5 * time.Minute,
			Latest: func(pod *v1.Pod) *v1.Pod { return pod },
		}
		q := New(config, profile.Less, func(*v1.Pod) *framework.Profile { return profile })
		defer q.Close()
		story(q)
	})
}

func pod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
}

// reject puts a popped pod back as one that no node was found for.
func reject(q *Queue, p *framework.QueuedPod) {
	p.Rejectors = sets.New("Picky")
	q.PutBack(p, false, nil)
}

func wantPlaces(t *testing.T, q *Queue, active, backoff, unschedulable, inFlight int) {
	t.Helper()
	synctest.Wait()
	a, b, u, f := q.Pending()
	if a != active || b != backoff || u != unschedulable || f != inFlight {
		t.Fatalf("%d active, %d in back-off, %d unschedulable, %d in flight; want %d, %d, %d, %d", a, b, u, f, active, backoff, unschedulable, inFlight)
	}
}

var newNode = &framework.Event{Kind: framework.Node, Action: framework.Add}

// A rejected pod waits for an event that its plugin named; others leave it where it is.
func TestHints(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		reject(q, q.Pop())
		wantPlaces(t, q, 0, 0, 1, 0)
		q.Notify(&framework.Event{Kind: framework.Node, Action: framework.UpdateNodeLabel})
		q.Notify(&framework.Event{Kind: framework.AssignedPod, Action: framework.Delete})
		wantPlaces(t, q, 0, 0, 1, 0)
		q.Notify(newNode)
		wantPlaces(t, q, 0, 1, 0, 0)
		time.Sleep(time.Second)
		wantPlaces(t, q, 1, 0, 0, 0)
	})
}

// An event while the pod is being tried counts too.
func TestEventInFlight(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		p := q.Pop()
		q.Notify(newNode)
		reject(q, p)
		wantPlaces(t, q, 0, 1, 0, 0)
		if q.log != nil {
			t.Errorf("%d events are kept for nobody", len(q.log))
		}
	})
}

// A pod that is gone, or has its node, does not come back, nor does it keep its room on the node that it was nominated to.
func TestGoneInFlight(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		p := q.Pop()
		q.Nominated.Set(p.PodInfo, "n1")
		q.config.Latest = func(*v1.Pod) *v1.Pod { return nil }
		if back := q.PutBack(p, false, &framework.Nomination{NodeName: "n2"}); back != nil {
			t.Errorf("PutBack = %v for a pod that is gone", back.Name)
		}
		wantPlaces(t, q, 0, 0, 0, 0)
		if node := q.Nominated.NodeOf("p"); node != "" {
			t.Errorf("a pod that is gone is nominated to %s", node)
		}
	})
}

// An attempt that says nothing of the nomination leaves it as the API has it by now, or as this process has made it.
func TestNominationInFlight(t *testing.T) {
	for _, c := range []struct{ was, is, own, want string }{
		{was: "n1", is: "", own: "n1", want: ""}, // withdrawn for a more important pod
		{was: "n1", is: "n2", own: "n1", want: "n2"},
		{was: "", is: "", own: "n3", want: "n3"}, // not reported yet
	} {
		inQueue(t, func(q *Queue) {
			was, is := pod("p"), pod("p")
			was.Status.NominatedNodeName, is.Status.NominatedNodeName = c.was, c.is
			q.Add(was)
			p := q.Pop()
			q.Nominated.Set(p.PodInfo, c.own)
			q.config.Latest = func(*v1.Pod) *v1.Pod { return is }
			q.PutBack(p, false, nil)
			if node := q.Nominated.NodeOf("p"); node != c.want {
				t.Errorf("%+v: nominated to %q", c, node)
			}
		})
	}
}

// Word that room could not be made for a pod comes through to it wherever it is, and to no other. That its gate is open is news to a gated pod only.
func TestRecheck(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		q.Add(pod("other"))
		p, other := q.Pop(), q.Pop()
		q.Recheck("p", true)
		reject(q, p)
		q.Recheck("other", false)
		reject(q, other)
		wantPlaces(t, q, 0, 1, 1, 0)
		q.Recheck("other", false)
		wantPlaces(t, q, 0, 1, 1, 0)
		q.Recheck("other", true)
		wantPlaces(t, q, 0, 2, 0, 0)
		start := time.Now()
		if q.Pop(); time.Since(start) != time.Second {
			t.Errorf("the next attempt came after %v, want 1s", time.Since(start))
		}
	})
}

// An error between rejections does not shorten their back-off.
func TestBackoffAfterError(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		p := q.Pop()
		p.Rejections = 3
		q.PutBack(p, true, nil)
		start := time.Now()
		if p = q.Pop(); time.Since(start) != time.Second {
			t.Errorf("the first error took %v", time.Since(start))
		}
		reject(q, p)
		if wait := time.Until(p.BackoffUntil); wait != 8*time.Second {
			t.Errorf("the fourth rejection takes %v, want 8s", wait)
		}
	})
}

// Errors sit out 1 s, 2 s, 4 s, 8 s, 10 s, 10 s.
func TestBackoff(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
			p := q.Pop()
			q.PutBack(p, true, nil)
			start := time.Now()
			p = q.Pop()
			if waited := time.Since(start); waited != want*time.Second {
				t.Errorf("attempt %d came after %v, want %v", p.Attempts, waited, want*time.Second)
			}
			q.Done(p.Pod.UID)
			q.mu.Lock()
			q.activate(p, PodAdd)
			q.mu.Unlock()
		}
	})
}

// A pod whose gate closes while it waits is not tried in spite of it, however idle the scheduler; nor does it wait for its back-off once it is open.
func TestGateClosesInBackoff(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		p := q.Pop()
		p.Rejectors = sets.New("Picky")
		gated := pod("p")
		gated.Labels = map[string]string{"gate": "x"}
		q.config.Latest = func(*v1.Pod) *v1.Pod { return gated }
		q.PutBack(p, false, nil)
		q.Notify(newNode)
		wantPlaces(t, q, 0, 0, 1, 0)
	})
}

// Of pods whose back-off ends at about the same time the more important one comes first. What is less important than the pod whose nomination ended
// is tried again, and what is more important is not.
func TestImportanceInBackoff(t *testing.T) {
	inQueue(t, func(q *Queue) {
		for _, name := range []string{"first", "second", "third"} {
			q.Add(pod(name))
			time.Sleep(time.Millisecond)
		}
		for range 3 {
			p := q.Pop()
			important := pod(p.Pod.Name)
			important.Spec.Priority = map[string]*int32{"third": ptr.To[int32](5)}[p.Pod.Name]
			p.Rejectors = sets.New("Picky")
			q.config.Latest = func(*v1.Pod) *v1.Pod { return important }
			q.PutBack(p, false, nil)
			time.Sleep(time.Millisecond)
		}
		upTo := int32(1)
		q.Notify(&framework.Event{Kind: framework.Node, Action: framework.Add, UpTo: &upTo})
		wantPlaces(t, q, 0, 2, 1, 0)
		q.Notify(newNode)
		for _, want := range []string{"third", "first", "second"} {
			if p := q.Pop(); p.Pod.Name != want {
				t.Errorf("popped %s, want %s", p.Pod.Name, want)
			}
		}
	})
}

// An idle scheduler does not wait for a rejected pod's back-off to end.
func TestPopFromBackoff(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		reject(q, q.Pop())
		start := time.Now()
		q.Notify(newNode)
		if q.Pop(); time.Since(start) != 0 {
			t.Errorf("popped after %v", time.Since(start))
		}
	})
}

// Nothing is forgotten for longer than five minutes.
func TestFlush(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("p"))
		reject(q, q.Pop())
		time.Sleep(5*time.Minute - time.Second)
		wantPlaces(t, q, 0, 0, 1, 0)
		time.Sleep(31 * time.Second)
		wantPlaces(t, q, 1, 0, 0, 0)
	})
}

func TestGate(t *testing.T) {
	inQueue(t, func(q *Queue) {
		gated := pod("p")
		gated.Labels = map[string]string{"gate": "closed"}
		q.Add(gated)
		q.Notify(newNode)
		time.Sleep(time.Hour)
		wantPlaces(t, q, 0, 0, 1, 0)
		open := pod("p")
		q.Update(gated, open, []*framework.Event{{Kind: framework.TargetPod, Action: framework.UpdatePodLabel, Old: gated, New: open}})
		wantPlaces(t, q, 1, 0, 0, 0)
	})
}

func TestDeleteAndClose(t *testing.T) {
	inQueue(t, func(q *Queue) {
		q.Add(pod("a"))
		q.Add(pod("b"))
		q.Delete(pod("a"))
		if p := q.Pop(); p.Pod.Name != "b" {
			t.Errorf("popped %s, want b", p.Pod.Name)
		}
		done := make(chan *framework.QueuedPod)
		go func() { done <- q.Pop() }()
		synctest.Wait()
		q.Close()
		if p := <-done; p != nil {
			t.Errorf("popped %v from a closed queue", p.Pod.Name)
		}
	})
}

func TestNominated(t *testing.T) {
	n := NewNominated()
	a, b := framework.NewPodInfo(pod("a")), framework.NewPodInfo(pod("b"))
	n.Set(a, "n1")
	n.Set(b, "n1")
	before := n.NominatedPods("n1")
	n.Set(a, "n2")
	n.Remove(b.Pod)
	if len(before) != 2 || len(n.NominatedPods("n1")) != 0 || len(n.NominatedPods("n2")) != 1 {
		t.Errorf("%d before, %d on n1, %d on n2", len(before), len(n.NominatedPods("n1")), len(n.NominatedPods("n2")))
	}
	n.Update(a, "") // the API server has not heard of it
	if len(n.NominatedPods("n2")) != 1 {
		t.Error("an update dropped the nomination")
	}
	n.Update(a, "n2") // somebody cleared it
	if len(n.NominatedPods("n2")) != 0 {
		t.Error("a cleared nomination stays")
	}
}
