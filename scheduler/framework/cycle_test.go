// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"context"
	"errors"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// fake is a plugin that answers PreFilter and PostFilter with what it is told to, and notes that it was asked.
type fake struct {
	name      string
	pre, post *Status
	asked     *[]string
}

func (f fake) Name() string                                    { return f.name }
func (f fake) Less(_, _ *QueuedPod) bool                       { return false }
func (f fake) Bind(context.Context, *v1.Pod, string) *Status   { return nil }
func (f fake) Filter(_ State, _ *PodInfo, _ *NodeInfo) *Status { return nil }
func (f fake) PreFilter(context.Context, *PodInfo, *Snapshot) (State, sets.Set[string], *Status) {
	*f.asked = append(*f.asked, f.name)
	return f.name, nil, f.pre
}

func (f fake) PostFilter(context.Context, *Cycle, *Diagnosis) (*Nomination, *Status) {
	*f.asked = append(*f.asked, f.name)
	return nil, f.post
}

// cycleOf plugins, of which the first sorts.
func cycleOf(t *testing.T, plugins ...fake) *Cycle {
	t.Helper()
	var weighted []Weighted
	for i, p := range plugins {
		w := Weighted{Plugin: p}
		if i > 0 {
			w.Off = []Point{AtQueueSort}
		}
		weighted = append(weighted, w)
	}
	profile, err := NewProfile("test", weighted)
	if err != nil {
		t.Fatal(err)
	}
	return NewCycle(profile, NewPodInfo(&v1.Pod{}), NewSnapshot(), nil)
}

// A rejection that preemption may help leaves the other plugins ready for their Filter; one for good ends the search.
func TestPreFilterRejects(t *testing.T) {
	for _, test := range []struct {
		first  *Status
		asked  int
		plugin string
	}{
		{Reject("may help"), 2, "a"},
		{RejectForGood("for good"), 1, "a"},
		{nil, 2, ""},
	} {
		var asked []string
		c := cycleOf(t, fake{name: "a", pre: test.first, asked: &asked}, fake{name: "b", asked: &asked})
		_, _, plugin, status := c.PreFilter(t.Context())
		if len(asked) != test.asked || plugin != test.plugin || status != test.first {
			t.Errorf("%s: asked %v, rejected by %q with %q", test.first.Message(), asked, plugin, status.Message())
		}
	}
}

// Rank changes the order at one point; a plugin that has nothing to say there cannot have one.
func TestRank(t *testing.T) {
	var asked []string
	weighted := []Weighted{
		{Plugin: fake{name: "a", asked: &asked}, Rank: map[Point]int{AtPreFilter: 2}},
		{Plugin: fake{name: "b", asked: &asked}, Off: []Point{AtQueueSort}},
		{Plugin: fake{name: "c", asked: &asked}, Off: []Point{AtQueueSort}, Rank: map[Point]int{AtPreFilter: -1}},
	}
	profile, err := NewProfile("test", weighted)
	if err != nil {
		t.Fatal(err)
	}
	NewCycle(profile, NewPodInfo(&v1.Pod{}), NewSnapshot(), nil).PreFilter(t.Context())
	if order := strings.Join(asked, ""); order != "cba" {
		t.Errorf("PreFilter asked %s, want cba", order)
	}
	weighted[1].Rank = map[Point]int{AtScore: 1}
	if _, err := NewProfile("test", weighted); err == nil || !strings.Contains(err.Error(), `"b" has nothing to say at score`) {
		t.Errorf("a plugin that does not score was taken for score: %v", err)
	}
}

// PostFilter ends with the first plugin that makes room, or knows that nothing helps.
func TestPostFilterEnds(t *testing.T) {
	for _, test := range []struct {
		first *Status
		asked int
		want  string
	}{
		{Reject("one"), 2, "one, two"},
		{RejectForGood("nothing helps"), 1, "nothing helps"},
		{NewStatus(Success, "room"), 1, "room"},
	} {
		var asked []string
		c := cycleOf(t, fake{name: "a", post: test.first, asked: &asked}, fake{name: "b", post: Reject("two"), asked: &asked})
		if _, status := c.PostFilter(t.Context(), &Diagnosis{}); len(asked) != test.asked || status.Message() != test.want {
			t.Errorf("%s: asked %v, which says %q", test.first.Message(), asked, status.Message())
		}
	}
}

// preBinder does what it is told to.
type preBinder struct {
	fake
	preBind func(ctx context.Context) *Status
}

func (preBinder) NeedsPreBind(State, string) bool { return true }
func (p preBinder) PreBind(ctx context.Context, _ State, _ *v1.Pod, _ string) *Status {
	return p.preBind(ctx)
}

type concurrent struct{ preBinder }

func (concurrent) PreBindsBesideOthers() {}

// Neighbours that may work beside each other do, and when one fails the other is told to end; who may not has to wait until they are done.
func TestPreBindTogether(t *testing.T) {
	var asked []string
	met, reached := make(chan struct{}), false
	meet := func(f func(ctx context.Context) *Status) func(ctx context.Context) *Status {
		return func(ctx context.Context) *Status {
			select {
			case met <- struct{}{}:
			case <-met:
			}
			return f(ctx)
		}
	}
	named := func(name string, f func(context.Context) *Status) preBinder {
		return preBinder{fake{name: name, asked: &asked}, f}
	}
	run := func(last *Status) (string, *Status) {
		third := func(context.Context) *Status { reached = true; return nil }
		weighted := []Weighted{
			{Plugin: concurrent{named("a", meet(func(ctx context.Context) *Status {
				if last == nil {
					return nil
				}
				<-ctx.Done()
				return AsStatus(context.Cause(ctx))
			}))}},
			{Plugin: concurrent{named("b", meet(func(context.Context) *Status { return last }))}, Off: []Point{AtQueueSort}},
			{Plugin: named("c", third), Off: []Point{AtQueueSort}},
		}
		profile, err := NewProfile("test", weighted)
		if err != nil {
			t.Fatal(err)
		}
		c := NewCycle(profile, NewPodInfo(&v1.Pod{}), NewSnapshot(), nil)
		c.NeedsPreBind("n")
		return c.PreBind(t.Context(), &v1.Pod{}, "n")
	}
	if plugin, status := run(nil); status != nil || !reached {
		t.Errorf("PreBind = %s, %s; the third was asked: %t", plugin, status.Message(), reached)
	}
	reached = false
	if plugin, status := run(AsStatus(errors.New("no"))); plugin != "b" || status.Message() != `running PreBind plugin "b": no` || reached {
		t.Errorf("PreBind = %s, %s; the third was asked: %t", plugin, status.Message(), reached)
	}
}
