// SPDX-License-Identifier: Apache-2.0

package framework

import v1 "k8s.io/api/core/v1"

// Domain is what a Tally knows of one value of a node label.
type Domain struct{ Nodes, Pods int }

// Tally counts pods by domain: by the value that nodes have of a label. It is Kept in a Snapshot.
type Tally struct {
	Key     string
	Pods    int // in all domains
	Domains int // how many have a node that counts

	count   func(*NodeInfo) (pods int, counts bool)
	domains map[string]*Domain
	shares  []share     // by position of the node
	levels  map[int]int // how many domains, of those that have a node that counts, have so many pods
	lowest  int         // of levels; 0 if there are none
	room    []Domain    // for domains to come, side by side like their nodes
}

// share is what a node has in its domain.
type share struct {
	node   *v1.Node
	domain *Domain // nil if the node lacks the label
	pods   int
	counts bool
}

// NewTally counts by the values of a label what count says of each node: how many of its pods matter, and whether the node counts at all. count
// must say the same of the same node for as long as the tally is kept.
func NewTally(nodes int, key string, count func(*NodeInfo) (pods int, counts bool)) *Tally {
	return &Tally{Key: key, count: count, domains: make(map[string]*Domain), shares: make([]share, nodes), levels: make(map[int]int)}
}

// Of returns the domain of a node, nil if it lacks the label. The node may be any, but is quickest found if it is one of the snapshot or a clone:
// to look at the nodes' labels takes much longer when there are more than fit in the processor's caches.
func (t *Tally) Of(node *NodeInfo) *Domain {
	if node.position < len(t.shares) {
		if s := &t.shares[node.position]; s.node == node.Node {
			return s.domain
		}
	}
	value, ok := node.Node.Labels[t.Key]
	if !ok {
		return nil
	}
	return t.named(value)
}

var empty Domain

func (t *Tally) named(value string) *Domain {
	if d := t.domains[value]; d != nil {
		return d
	}
	return &empty
}

// Recount implements Kept.
func (t *Tally) Recount(position int, node *NodeInfo) {
	s := &t.shares[position]
	now := share{node: node.Node}
	if value, ok := node.Node.Labels[t.Key]; ok {
		if now.domain = t.domains[value]; now.domain == nil {
			now.domain = t.newDomain()
			t.domains[value] = now.domain
		}
		now.pods, now.counts = t.count(node)
	}
	if s.domain == now.domain && s.pods == now.pods && s.counts == now.counts {
		s.node = now.node
		return
	}
	t.add(s, -1)
	t.add(&now, 1)
	*s = now
	for t.Domains > 0 && t.levels[t.lowest] == 0 {
		t.lowest++
	}
}

// newDomain keeps domains close to each other.
func (t *Tally) newDomain() *Domain {
	const atOnce = 64
	if len(t.room) == 0 {
		t.room = make([]Domain, atOnce)
	}
	d := &t.room[0]
	t.room = t.room[1:]
	return d
}

func (t *Tally) add(s *share, sign int) {
	if !s.counts {
		return
	}
	d := s.domain
	t.Pods += sign * s.pods
	if d.Nodes > 0 {
		t.Domains--
		if t.levels[d.Pods]--; t.levels[d.Pods] == 0 {
			delete(t.levels, d.Pods)
		}
	}
	d.Nodes += sign
	d.Pods += sign * s.pods
	if d.Nodes == 0 {
		return
	}
	t.Domains++
	t.levels[d.Pods]++
	if d.Pods < t.lowest || t.Domains == 1 {
		t.lowest = d.Pods
	}
}

// Lowest is the number of pods of the emptiest domain, when more pods than counted are in some (or fewer).
func (t *Tally) Lowest(more map[string]int) int {
	if len(more) == 0 {
		return t.lowest
	}
	lowest, changed := t.lowest, make(map[int]int)
	for domain, n := range more {
		pods := t.named(domain).Pods
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
