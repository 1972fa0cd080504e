// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// However nodes change, a tally says what counting all of them says, knows the emptiest domain, and finds the domain of any node.
func TestTally(t *testing.T) {
	type state struct {
		domain string // empty: without the label
		pods   int
		counts bool
	}
	r := rand.New(rand.NewPCG(1, 1))
	const nodes = 12
	now, infos := make([]state, nodes), make([]*NodeInfo, nodes)
	tally := NewTally(nodes, "key", func(n *NodeInfo) (int, bool) { s := now[n.position]; return s.pods, s.counts })
	for range 5000 {
		at := r.IntN(nodes)
		now[at] = state{[...]string{"", "a", "b", "c", "d"}[r.IntN(5)], r.IntN(5), r.IntN(3) > 0}
		infos[at] = &NodeInfo{position: at, Node: &v1.Node{}}
		if now[at].domain != "" {
			infos[at].Node.Labels = map[string]string{"key": now[at].domain}
		}
		tally.Recount(at, infos[at])
		want, all := make(map[string]Domain), 0
		for _, s := range now {
			if s.counts && s.domain != "" {
				want[s.domain] = Domain{want[s.domain].Nodes + 1, want[s.domain].Pods + s.pods}
				all += s.pods
			}
		}
		for i, info := range infos {
			if info == nil {
				continue
			}
			stranger := &NodeInfo{position: i, Node: info.Node.DeepCopy()}
			for _, n := range []*NodeInfo{info, stranger} {
				d := tally.Of(n)
				if (d == nil) != (now[i].domain == "") || d != nil && *d != want[now[i].domain] {
					t.Fatalf("the domain of %v is %v; want %v", n.Node.Labels, d, want[now[i].domain])
				}
			}
		}
		if tally.Domains != len(want) || tally.Pods != all {
			t.Fatalf("counted %d domains, %d pods in all; want %d, %d", tally.Domains, tally.Pods, len(want), all)
		}
		more := make(map[string]int)
		lowest, first := 0, true
		for domain, d := range want {
			if r.IntN(2) == 0 {
				more[domain] = r.IntN(3) - min(d.Pods, 1)
			}
			if pods := d.Pods + more[domain]; first || pods < lowest {
				lowest, first = pods, false
			}
		}
		if got := tally.Lowest(more); got != lowest {
			t.Fatalf("lowest of %v with %v is %d, want %d", want, more, got, lowest)
		}
	}
}

// counter counts how often it is asked.
type counter map[string]int

func (c counter) Recount(_ int, node *NodeInfo) { c[node.Node.Name]++ }

// Only what has changed is counted again, also when there were more changes than are remembered; the value not used for the longest time goes.
func TestKeep(t *testing.T) {
	named := func(name string) *NodeInfo {
		return &NodeInfo{Node: &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}}
	}
	s := NewSnapshot(named("a"), named("b"), named("c"))
	keep := func(id string) counter {
		return s.Keep(id, func(int) Kept { return make(counter) }).(counter)
	}
	wantCounts := func(id, want string) {
		t.Helper()
		if got := fmt.Sprint(keep(id)); got != want {
			t.Errorf("%s has counted %s, want %s", id, got, want)
		}
	}
	wantCounts("x", "map[a:1 b:1 c:1]")
	s.SetNode(named("b"))
	s.SetNode(named("b"))
	wantCounts("x", "map[a:1 b:2 c:1]")
	wantCounts("x", "map[a:1 b:2 c:1]")
	for range 3 * maxLog {
		s.SetNode(named("c"))
	}
	s.SetNode(named("a"))
	wantCounts("x", "map[a:2 b:2 c:2]")
	for i := range maxKeptValues {
		keep(fmt.Sprint(i))
		keep("x")
	}
	wantCounts("x", "map[a:2 b:2 c:2]")
	wantCounts("0", "map[a:1 b:1 c:1]")
	if len(s.kept) != maxKeptValues {
		t.Errorf("%d values are kept, want %d", len(s.kept), maxKeptValues)
	}
	s.SetOrder(s.Nodes[:2])
	wantCounts("x", "map[a:1 b:1]")
}
