// SPDX-License-Identifier: Apache-2.0

// Package numa decides on which NUMA nodes of the machine what a container was given should lie, so that its CPUs do not
// reach for devices behind another processor.
//
// Who gives out CPUs and devices says by [Hint]s on which sets of nodes he could do so; [Choose] finds the set that suits all
// of them best, and says whether the operator's policy lets the pod run with it. It decides without I/O; nodes.go reads
// the machine.
// Reference: https://kubernetes.io/docs/tasks/administer-cluster/topology-manager/
package numa

import "math/bits"

// Policy is what becomes of pods whose resources do not lie together.
type Policy string

// The policies.
const (
	None       Policy = "none"             // nobody is asked
	BestEffort Policy = "best-effort"      // they run
	Restricted Policy = "restricted"       // they run if fewer nodes would not do for any that could be had
	SingleNode Policy = "single-numa-node" // they do not run unless one node is enough
)

// The scopes: whether each container is looked at by itself, or the pod as a whole.
const (
	ContainerScope = "container"
	PodScope       = "pod"
)

// What a pod is told that may not run.
const (
	Reason  = "TopologyAffinityError"
	Message = "Resources cannot be allocated with Topology locality"
)

// MaxNodes is how many nodes a machine may have, if nothing else is said: there are twice as many sets of them with each node more.
const MaxNodes = 8

// Options are the operator's.
type Options struct {
	MaxNodes int  // max-allowable-numa-nodes; 0: MaxNodes
	Closest  bool // prefer-closest-numa-nodes: of as many nodes those that are closest to each other are better
}

// Mask is a set of nodes. The empty one stands for "any".
type Mask uint64

// Of is a set of nodes.
func Of(nodes ...int) (m Mask) {
	for _, n := range nodes {
		m |= 1 << n
	}
	return m
}

// Has says whether a node is in the set.
func (m Mask) Has(node int) bool { return m&(1<<node) != 0 }

// List are the nodes of the set.
func (m Mask) List() (nodes []int) {
	for node := range 64 {
		if m.Has(node) {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

// Count is how many nodes are in the set.
func (m Mask) Count() int { return bits.OnesCount64(uint64(m)) }

// narrower says whether a set is smaller, or as large but with lower nodes.
func (m Mask) narrower(than Mask) bool {
	if m.Count() != than.Count() {
		return m.Count() < than.Count()
	}
	return m < than
}

// Subsets are all sets of some of the nodes, but the empty one.
func (m Mask) Subsets() (all []Mask) {
	for s := m & -m; s != 0; s = (s - m) & m { // the next larger number that has no other bits
		all = append(all, s)
	}
	return all
}

// Hint is a set of nodes on which something can be given. Fewer would not do if it is preferred.
type Hint struct {
	Nodes     Mask // empty: wherever
	Preferred bool
}

// Hints are those for one resource. Nil says that it may lie anywhere; an empty list, that it can be had nowhere.
type Hints []Hint

// Possible makes the hints for a number of things: total and free say how many of them there are, and can be had now, on a set of
// nodes. The smallest sets on which there are enough at all are preferred.
func Possible(nodes Mask, count int, total, free func(Mask) int) Hints {
	least, hints := Least(nodes, count, total), Hints{}
	for _, m := range nodes.Subsets() {
		if free(m) >= count {
			hints = append(hints, Hint{Nodes: m, Preferred: m.Count() == least})
		}
	}
	return hints
}

// Least is how many nodes are needed for so many things; all, if even they have less.
func Least(nodes Mask, count int, total func(Mask) int) int {
	least := nodes.Count()
	for _, m := range nodes.Subsets() {
		if total(m) >= count {
			least = min(least, m.Count())
		}
	}
	return least
}

// Choose finds the nodes that suit all resources best; admit says whether the policy lets it be so. No nodes means any. With
// distances, of as many nodes those that are closest to each other are better.
func Choose(policy Policy, nodes Mask, distances Distances, resources []Hints) (best Mask, admit bool) {
	if policy == None {
		return 0, true
	}
	lists := make([]Hints, 0, len(resources))
	for _, hints := range resources {
		switch {
		case hints == nil:
			hints = Hints{{Preferred: true}}
		case len(hints) == 0:
			hints = Hints{{}}
		}
		if policy == SingleNode {
			hints = single(hints)
		}
		lists = append(lists, hints)
	}
	found := merger{nodes, distances, widest(lists)}.merge(lists)
	if policy == SingleNode && found.Nodes == nodes {
		found.Nodes = 0
	}
	return found.Nodes, policy == BestEffort || found.Preferred
}

// single keeps the hints that want one node or any.
func single(hints Hints) (kept Hints) {
	for _, h := range hints {
		if h.Preferred && h.Nodes.Count() <= 1 {
			kept = append(kept, h)
		}
	}
	return kept
}

// merger compares combinations.
type merger struct {
	nodes     Mask
	distances Distances
	wide      int // as many nodes as the most demanding resource needs
}

// merge tries all combinations of one hint for each resource.
func (m merger) merge(lists []Hints) Hint {
	var best Hint // without nodes there is none yet
	var try func(rest []Hints, so Hint, first Mask)
	try = func(rest []Hints, so Hint, first Mask) {
		if len(rest) == 0 {
			if so.Nodes != 0 && (best.Nodes == 0 || m.better(so, best)) {
				best = so
			}
			return
		}
		for _, h := range rest[0] {
			next, now := so, first
			next.Preferred = so.Preferred && h.Preferred
			if h.Nodes != 0 {
				if now == 0 {
					now = h.Nodes
				}
				next.Nodes &= h.Nodes
				next.Preferred = next.Preferred && h.Nodes == now // all on the same
			}
			try(rest[1:], next, now)
		}
	}
	try(lists, Hint{Nodes: m.nodes, Preferred: true}, 0)
	if best.Nodes == 0 {
		return Hint{Nodes: m.nodes}
	}
	return best
}

// widest is the number of nodes without which at least one resource cannot be given.
func widest(lists []Hints) (wide int) {
	for _, hints := range lists {
		least := 0
		for _, h := range hints {
			if h.Nodes != 0 && (least == 0 || h.Nodes.Count() < least) {
				least = h.Nodes.Count()
			}
		}
		wide = max(wide, least)
	}
	return wide
}

// better compares combinations. Of those that nobody prefers, the one that comes closest to what the most demanding resource
// needs is the best, and fewer nodes than that are better than more.
func (m merger) better(h, other Hint) bool {
	if h.Preferred != other.Preferred {
		return h.Preferred
	}
	if h.Preferred || other.Nodes.Count() > m.wide {
		return m.distances.fitter(h.Nodes, other.Nodes)
	}
	mine, theirs := h.Nodes.Count(), other.Nodes.Count()
	switch {
	case mine > m.wide:
		return false
	case mine != theirs:
		return mine > theirs
	}
	return m.distances.fitter(h.Nodes, other.Nodes)
}

// Distances say how far nodes are from each other and from themselves. Without any, nodes are as good as others.
type Distances map[int]map[int]int

// fitter says whether a set of nodes is smaller, or as large but with its nodes closer to each other, or as close but with lower nodes.
func (d Distances) fitter(m, than Mask) bool {
	if len(d) > 0 && m.Count() == than.Count() {
		if mine, theirs := d.sum(m), d.sum(than); mine != theirs {
			return mine < theirs
		}
	}
	return m.narrower(than)
}

// sum is that of the distances from each node to each.
func (d Distances) sum(m Mask) (sum int) {
	for _, from := range m.List() {
		for _, to := range m.List() {
			sum += d[from][to]
		}
	}
	return sum
}
