// SPDX-License-Identifier: Apache-2.0

package cpus

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/utils/cpuset"
)

// choose picks CPUs as the operator wants them. It returns fewer than count only if there are not more.
func (t Topology) choose(free cpuset.CPUSet, count int, o Options) cpuset.CPUSet {
	if o.AcrossNodes {
		if chosen, even := t.spread(free, count, o); even {
			return chosen
		}
	}
	return t.pack(free, count, o)
}

// pack picks whole sockets and NUMA nodes first, then whole cores, then threads of cores that are in use already. So a container
// shares as little as possible with others.
func (t Topology) pack(free cpuset.CPUSet, count int, o Options) cpuset.CPUSet {
	p := &picking{t: t, free: free, chosen: cpuset.New(), count: count}
	order := t.order()
	p.whole(order[0])
	p.whole(order[0], order[1])
	if o.AlignCaches {
		p.caches()
	}
	last := order
	if o.AcrossCores {
		last = t.through(socket)
	} else {
		p.whole(order...)
	}
	for _, group := range t.split(p.free.List(), last...) {
		p.take(group[:min(len(group), p.count)])
	}
	return p.chosen
}

// order are the parts of the machine, those that hold others first: a socket may have several NUMA nodes, and the other way round.
func (t Topology) order() []level {
	if t.count(socket) >= t.count(node) {
		return []level{node, socket, core}
	}
	return []level{socket, node, core}
}

// through is the order as far as one of them.
func (t Topology) through(l level) []level {
	order := t.order()
	return order[:slices.Index(order, l)+1]
}

// split divides CPUs by the places where they are, level within level. The place with the fewest of them comes first, and of as many
// the lowest.
func (t Topology) split(cpus []int, levels ...level) (groups [][]int) {
	if len(levels) == 0 {
		return [][]int{cpus}
	}
	at := map[int][]int{}
	for _, cpu := range cpus {
		place := t[cpu].at(levels[0])
		at[place] = append(at[place], cpu)
	}
	places := slices.Sorted(maps.Keys(at))
	slices.SortStableFunc(places, func(a, b int) int { return cmp.Compare(len(at[a]), len(at[b])) })
	for _, place := range places {
		groups = append(groups, t.split(at[place], levels[1:]...)...)
	}
	return groups
}

// picking is a choice that is being made.
type picking struct {
	t            Topology
	free, chosen cpuset.CPUSet
	count        int // that are still wanted
}

func (p *picking) take(cpus []int) {
	set := cpuset.New(cpus...)
	p.free, p.chosen, p.count = p.free.Difference(set), p.chosen.Union(set), p.count-set.Size()
}

// whole takes the places of a level, within others, of which all CPUs are free and wanted.
func (p *picking) whole(levels ...level) {
	for _, group := range p.t.split(p.free.List(), levels...) {
		if len(group) <= p.count && len(group) == p.t.size(group[0], levels[len(levels)-1]) {
			p.take(group)
		}
	}
}

// caches takes CPUs that share caches with none but each other: all of a cache's, as long as so many are wanted, and the rest
// from one cache, if its first cores suffice.
func (p *picking) caches() {
	levels := append(p.t.through(node), cache)
	groups := p.t.split(p.free.List(), levels...)
	if p.count >= p.t.per(cache) {
		p.whole(levels...)
	}
	perCore := p.t.per(core)
	for _, group := range groups {
		cores := p.t.split(p.free.Intersection(cpuset.New(group...)).List(), core)
		slices.SortFunc(cores, func(a, b []int) int { return cmp.Compare(p.t[a[0]].Core, p.t[b[0]].Core) })
		first := slices.Concat(cores[:min((p.count+perCore-1)/perCore, len(cores))]...)
		slices.Sort(first)
		if len(first) >= p.count {
			p.take(first[:p.count])
		}
	}
}
