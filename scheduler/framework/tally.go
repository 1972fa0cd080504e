// SPDX-License-Identifier: Apache-2.0

package framework

// Domain is what a Tally knows of one value of a node label.
type Domain struct{ Nodes, Pods int }

// Tally counts pods by domain. It is Kept in a Snapshot.
type Tally struct {
	Domains map[string]Domain // those that have a node that counts
	Pods    int               // in all of them

	of     func(*NodeInfo) (domain string, pods int, counts bool)
	shares []share     // by position of the node
	levels map[int]int // how many domains have so many pods
	lowest int         // of levels; 0 if there are none
}

type share struct {
	domain string
	pods   int
	counts bool
}

// NewTally counts what of says of each node: its domain, how many of its pods matter, and whether the node counts at all. of
// must say the same of the same node for as long as the tally is kept.
func NewTally(nodes int, of func(*NodeInfo) (domain string, pods int, counts bool)) *Tally {
	return &Tally{Domains: make(map[string]Domain), of: of, shares: make([]share, nodes), levels: make(map[int]int)}
}

// Recount implements Kept.
func (t *Tally) Recount(position int, node *NodeInfo) {
	var now share
	now.domain, now.pods, now.counts = t.of(node)
	was := &t.shares[position]
	if *was == now {
		return
	}
	t.add(was, -1)
	t.add(&now, 1)
	*was = now
	for len(t.Domains) > 0 && t.levels[t.lowest] == 0 {
		t.lowest++
	}
}

func (t *Tally) add(s *share, sign int) {
	if !s.counts {
		return
	}
	was := t.Domains[s.domain]
	now := Domain{Nodes: was.Nodes + sign, Pods: was.Pods + sign*s.pods}
	t.Pods += sign * s.pods
	if was.Nodes > 0 {
		if t.levels[was.Pods]--; t.levels[was.Pods] == 0 {
			delete(t.levels, was.Pods)
		}
	}
	if now.Nodes == 0 {
		delete(t.Domains, s.domain)
		return
	}
	t.Domains[s.domain] = now
	t.levels[now.Pods]++
	if now.Pods < t.lowest || len(t.Domains) == 1 {
		t.lowest = now.Pods
	}
}

// Lowest is the number of pods of the emptiest domain, when more pods than counted are in some (or fewer).
func (t *Tally) Lowest(more map[string]int) int {
	if len(more) == 0 {
		return t.lowest
	}
	lowest, changed := t.lowest, make(map[int]int)
	for domain, n := range more {
		pods := t.Domains[domain].Pods
		changed[pods]--
		changed[pods+n]++
		lowest = min(lowest, pods+n)
	}
	for t.levels[lowest]+changed[lowest] <= 0 {
		lowest++
	}
	return lowest
}

// PerNode counts something of single nodes when asked. It is Kept in a Snapshot.
type PerNode struct {
	count  func(*NodeInfo) int
	counts []int // by position of the node; -1 if it is not known
}

// NewPerNode counts by count, which must say the same of the same node for as long as the value is kept.
func NewPerNode(nodes int, count func(*NodeInfo) int) *PerNode {
	return &PerNode{count: count, counts: make([]int, nodes)}
}

// Recount implements Kept.
func (p *PerNode) Recount(position int, _ *NodeInfo) { p.counts[position] = -1 }

// Of counts a node of the snapshot. It may be called for different nodes at the same time.
func (p *PerNode) Of(node *NodeInfo) int {
	n := &p.counts[node.position]
	if *n < 0 {
		*n = p.count(node)
	}
	return *n
}
