// SPDX-License-Identifier: Apache-2.0

package cpus

import (
	"iter"
	"maps"

	"k8s.io/utils/cpuset"
)

// spread picks as many CPUs from each of as few NUMA nodes as will do. What cannot be divided comes from those of them which then
// leave the machine most even. It says whether that goes; group CPUs stay together.
func (t Topology) spread(free cpuset.CPUSet, count int, o Options) (chosen cpuset.CPUSet, even bool) {
	d := division{t: t, free: map[int]int{}, count: count, group: 1, alignSockets: o.AlignSockets}
	if o.WholeCores {
		d.group = t.per(core)
	}
	if count == 0 || count%d.group != 0 || count > free.Size() {
		return cpuset.New(), false
	}
	for _, cpus := range t.split(free.List(), t.through(node)...) {
		on := t[cpus[0]].Node
		d.nodes = append(d.nodes, on)
		d.free[on] = len(cpus)
	}
	best, found := d.best()
	if !found {
		return cpuset.New(), false
	}
	chosen = cpuset.New()
	take := func(on, count int) {
		left := t.on(node, free.Difference(chosen), on)
		chosen = chosen.Union(t.pack(left, count, Options{AcrossCores: o.AcrossCores}))
	}
	for _, on := range best.nodes {
		take(on, best.same)
	}
	for _, on := range best.turns {
		take(on, d.group)
	}
	return chosen, true
}

// division is the question how many CPUs should come from which NUMA nodes.
type division struct {
	t            Topology
	nodes        []int       // that have free CPUs, in the order in which they are taken
	free         map[int]int // how many, by node
	count, group int
	alignSockets bool
}

// shares are an answer: all nodes give the same number, and some of them give a group more in their turn.
type shares struct {
	nodes    []int
	same     int
	turns    []int
	uneven   int  // grows with the differences between what is left on all nodes
	together bool // in one socket, if that matters
}

// best tries few nodes before more.
func (d division) best() (best shares, found bool) {
	up := func(n, by int) int { return (n + by - 1) / by }
	groups := up(d.count, d.group)
	perNode := up(up(len(d.t), d.group), d.t.count(node))
	for k := up(groups, perNode); k <= min(groups, len(d.nodes)) && !found; k++ {
		for nodes := range combinations(d.nodes, k) {
			if s, fits := d.over(nodes); fits && (!found || s.betterThan(best)) {
				best, found = s, true
			}
		}
	}
	return best, found
}

func (s shares) betterThan(other shares) bool {
	if s.together != other.together {
		return s.together
	}
	return s.uneven < other.uneven
}

// over divides the CPUs over just these nodes.
func (d division) over(nodes []int) (s shares, fits bool) {
	s = shares{nodes: nodes, same: d.count / len(nodes) / d.group * d.group}
	have := 0
	for _, on := range nodes {
		whole := d.free[on] / d.group * d.group
		have += whole
		if d.alignSockets { // a socket with less on one of its nodes is better than two
			s.same = min(s.same, whole)
		}
	}
	left, givers := maps.Clone(d.free), []int(nil)
	for _, on := range nodes {
		if left[on] -= s.same; left[on] < 0 {
			return s, false
		}
		if left[on] >= d.group {
			givers = append(givers, on)
		}
	}
	if have < d.count {
		return s, false
	}
	s.together, s.uneven = d.alignSockets && d.t.sameSocket(nodes), uneven(left)
	more := (d.count - s.same*len(nodes)) / d.group
	if more == 0 {
		return s, true
	}
	for k := len(givers); k > 0; k-- {
		for some := range combinations(givers, k) {
			after := maps.Clone(left)
			turns := takeTurns(after, some, more, d.group)
			if len(turns) == more && (s.turns == nil || uneven(after) < s.uneven) {
				s.turns, s.uneven = turns, uneven(after)
			}
		}
	}
	return s, s.turns != nil
}

// takeTurns takes so many groups from nodes in turn, and tells from which; they are fewer if there are not more.
func takeTurns(left map[int]int, givers []int, groups, group int) (turns []int) {
	for before := -1; len(turns) < groups && len(turns) > before; {
		before = len(turns)
		for _, on := range givers {
			if len(turns) < groups && left[on] >= group {
				left[on] -= group
				turns = append(turns, on)
			}
		}
	}
	return turns
}

// uneven compares what is left in different ways of taking as many: the sum is the same, so that squares say which differs least.
func uneven(left map[int]int) (sum int) {
	for _, n := range left {
		sum += n * n
	}
	return sum
}

// sameSocket says whether some NUMA nodes are in one socket.
func (t Topology) sameSocket(nodes []int) bool {
	on := t.on(node, t.all(), nodes...)
	return len(t.split(on.List(), socket)) == 1
}

// combinations are all choices of k, in order.
func combinations(of []int, k int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		var choose func(from int, chosen []int) bool
		choose = func(from int, chosen []int) bool {
			if len(chosen) == k {
				return yield(append([]int(nil), chosen...))
			}
			for i := from; i <= len(of)-(k-len(chosen)); i++ {
				if !choose(i+1, append(chosen, of[i])) {
					return false
				}
			}
			return true
		}
		choose(0, nil)
	}
}
