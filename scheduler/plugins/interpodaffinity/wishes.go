// SPDX-License-Identifier: Apache-2.0

package interpodaffinity

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// kind of an affinity term of a pod that runs.
type kind int

const (
	requiredAnti kind = iota
	required
	preferred
	preferredAnti
	kinds
)

// wishes are the affinity terms of all pods that run. Replicas have the same terms, so there are far fewer wishes than pods. They are
// Kept in a Snapshot.
type wishes struct {
	of      [kinds]map[string]*wish // by the term's ID
	domains map[string]*domains     // by the keys of the terms
	shares  [][]wishShare           // by position of the node
}

// wish is one term, with the sum of its weights (1 if it is required) by the domains where the pods run that have it.
type wish struct {
	term   *framework.AffinityTerm
	sums   map[int]int64 // by number of the domain; most wishes are about few of them
	shares int           // the wish ends when no node has a share in it any more
}

type wishShare struct {
	*wish
	kind   kind
	domain int // number of the node's
	weight int64
}

// domains numbers the values of a key, so that what is known of a node's is found without looking at its labels.
type domains struct {
	Key     string
	numbers map[string]int
	places  []place // by position of the node; nil until all nodes have been looked at
}

type place struct {
	node   *v1.Node
	number int // -1 without the label
}

// number of the value that a node has; -1 if it has none.
func (d *domains) number(node *v1.Node) int {
	value, ok := node.Labels[d.Key]
	if !ok {
		return -1
	}
	n, known := d.numbers[value]
	if !known {
		n = len(d.numbers)
		d.numbers[value] = n
	}
	return n
}

// of is number for a node of the snapshot, or a clone of one, as it was looked at last. It may be called for several nodes at the same time.
func (d *domains) of(node *framework.NodeInfo) int {
	if position := node.Position(); position < len(d.places) {
		if p := &d.places[position]; p.node == node.Node {
			return p.number
		}
	}
	if value, ok := node.Node.Labels[d.Key]; ok {
		if n, known := d.numbers[value]; known {
			return n
		}
	}
	return -1
}

// lookAt numbers all nodes. From then on Recount does it.
func (d *domains) lookAt(nodes []*framework.NodeInfo) {
	if d.places != nil {
		return
	}
	d.places = make([]place, len(nodes))
	for i, node := range nodes {
		d.places[i] = place{node.Node, d.number(node.Node)}
	}
}

func wishesOf(view *framework.Snapshot) *wishes {
	return view.Keep("podaffinity", func(nodes int) framework.Kept {
		w := &wishes{domains: make(map[string]*domains), shares: make([][]wishShare, nodes)}
		for k := range w.of {
			w.of[k] = make(map[string]*wish)
		}
		return w
	}).(*wishes)
}

// Recount implements framework.Kept.
func (w *wishes) Recount(position int, node *framework.NodeInfo) {
	for _, s := range w.shares[position] {
		if s.sums[s.domain] -= s.weight; s.sums[s.domain] == 0 {
			delete(s.sums, s.domain)
		}
		if s.shares--; s.shares == 0 {
			delete(w.of[s.kind], s.term.ID)
		}
	}
	for _, d := range w.domains {
		if d.places != nil {
			d.places[position] = place{node.Node, d.number(node.Node)}
		}
	}
	clear(w.shares[position])
	shares := w.shares[position][:0]
	for _, p := range node.PodsWithAffinity {
		for i := range p.RequiredAntiAffinity {
			shares = w.collect(shares, node.Node, requiredAnti, &p.RequiredAntiAffinity[i], 1)
		}
		for i := range p.RequiredAffinity {
			shares = w.collect(shares, node.Node, required, &p.RequiredAffinity[i], 1)
		}
		for i := range p.PreferredAffinity {
			shares = w.collect(shares, node.Node, preferred, &p.PreferredAffinity[i].AffinityTerm, p.PreferredAffinity[i].Weight)
		}
		for i := range p.PreferredAntiAffinity {
			shares = w.collect(shares, node.Node, preferredAnti, &p.PreferredAntiAffinity[i].AffinityTerm, p.PreferredAntiAffinity[i].Weight)
		}
	}
	for i := range shares {
		shares[i].sums[shares[i].domain] += shares[i].weight
	}
	w.shares[position] = shares
}

// collect adds a term to the shares of a node.
func (w *wishes) collect(shares []wishShare, node *v1.Node, k kind, term *framework.AffinityTerm, weight int32) []wishShare {
	if i := slices.IndexFunc(shares, func(s wishShare) bool { return s.kind == k && s.term.ID == term.ID }); i >= 0 {
		shares[i].weight += int64(weight)
		return shares
	}
	d := w.domains[term.TopologyKey]
	if d == nil {
		d = &domains{Key: term.TopologyKey, numbers: make(map[string]int)}
		w.domains[term.TopologyKey] = d
	}
	number := d.number(node)
	if number < 0 {
		return shares
	}
	the := w.of[k][term.ID]
	if the == nil {
		the = &wish{term: term, sums: make(map[int]int64)}
		w.of[k][term.ID] = the
	}
	the.shares++
	return append(shares, wishShare{wish: the, kind: k, domain: number, weight: int64(weight)})
}

// wishesOfKey are wishes about one pod whose terms have one key.
type wishesOfKey struct {
	*domains
	wishes []weighted
}

// weighted is the sums of a wish, and what they are to be multiplied with.
type weighted struct {
	sums   map[int]int64
	factor int64
}

// manyWishes are added up once, and not anew for each node.
const manyWishes = 8

// about returns the wishes that select a pod, of the kinds that have a factor other than 0.
func (w *wishes) about(view *framework.Snapshot, pod *v1.Pod, namespaceLabels labels.Set, factors [kinds]int64) []wishesOfKey {
	var found []wishesOfKey
	for k, factor := range factors {
		if factor == 0 {
			continue
		}
		for _, wish := range w.of[k] {
			if !wish.term.Matches(pod, namespaceLabels) {
				continue
			}
			i := slices.IndexFunc(found, func(f wishesOfKey) bool { return f.Key == wish.term.TopologyKey })
			if i < 0 {
				i = len(found)
				d := w.domains[wish.term.TopologyKey]
				d.lookAt(view.Nodes)
				found = append(found, wishesOfKey{domains: d})
			}
			found[i].wishes = append(found[i].wishes, weighted{wish.sums, factor})
		}
	}
	for i := range found {
		if len(found[i].wishes) > manyWishes {
			found[i].addUp()
		}
	}
	return found
}

func (w *wishesOfKey) addUp() {
	sums := make(map[int]int64)
	for _, wish := range w.wishes {
		for domain, sum := range wish.sums {
			sums[domain] += wish.factor * sum
		}
	}
	w.wishes = []weighted{{sums, 1}}
}

// around adds up what there is in the domain of a node.
func (w *wishesOfKey) around(node *framework.NodeInfo) int64 {
	domain, sum := w.of(node), int64(0)
	if domain < 0 {
		return 0
	}
	for i := range w.wishes {
		sum += w.wishes[i].factor * w.wishes[i].sums[domain]
	}
	return sum
}
