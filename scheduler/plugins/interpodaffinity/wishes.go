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
	of     [kinds]map[string]*wish // by the term's ID
	shares [][]wishShare           // by position of the node
}

// wish is one term, with the sum of its weights (1 if it is required) by the domains where the pods run that have it.
type wish struct {
	term   *framework.AffinityTerm
	sums   map[string]int64
	shares int // the wish ends when no node has a share in it any more
}

type wishShare struct {
	*wish
	kind   kind
	value  string // of the term's key
	weight int64
}

func wishesOf(view *framework.Snapshot) *wishes {
	return view.Keep("podaffinity", func(nodes int) framework.Kept {
		w := &wishes{shares: make([][]wishShare, nodes)}
		for k := range w.of {
			w.of[k] = make(map[string]*wish)
		}
		return w
	}).(*wishes)
}

// Recount implements framework.Kept.
func (w *wishes) Recount(position int, node *framework.NodeInfo) {
	for _, s := range w.shares[position] {
		if s.sums[s.value] -= s.weight; s.sums[s.value] == 0 {
			delete(s.sums, s.value)
		}
		if s.shares--; s.shares == 0 {
			delete(w.of[s.kind], s.term.ID)
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
		shares[i].sums[shares[i].value] += shares[i].weight
	}
	w.shares[position] = shares
}

// collect adds a term to the shares of a node.
func (w *wishes) collect(shares []wishShare, node *v1.Node, k kind, term *framework.AffinityTerm, weight int32) []wishShare {
	value, ok := node.Labels[term.TopologyKey]
	if !ok {
		return shares
	}
	if i := slices.IndexFunc(shares, func(s wishShare) bool { return s.kind == k && s.term.ID == term.ID }); i >= 0 {
		shares[i].weight += int64(weight)
		return shares
	}
	the := w.of[k][term.ID]
	if the == nil {
		the = &wish{term: term, sums: make(map[string]int64)}
		w.of[k][term.ID] = the
	}
	the.shares++
	return append(shares, wishShare{wish: the, kind: k, value: value, weight: int64(weight)})
}

// wishesOfKey are wishes about one pod whose terms have one key.
type wishesOfKey struct {
	labels framework.Labels
	wishes []weighted
}

// weighted is the sums of a wish, and what they are to be multiplied with.
type weighted struct {
	sums   map[string]int64
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
			i := slices.IndexFunc(found, func(f wishesOfKey) bool { return f.labels.Key == wish.term.TopologyKey })
			if i < 0 {
				i = len(found)
				found = append(found, wishesOfKey{labels: view.Labels(wish.term.TopologyKey)})
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
	sums := make(map[string]int64)
	for _, wish := range w.wishes {
		for value, sum := range wish.sums {
			sums[value] += wish.factor * sum
		}
	}
	w.wishes = []weighted{{sums, 1}}
}

// at adds up what there is in the domain of a value.
func (w *wishesOfKey) at(value string) int64 {
	sum := int64(0)
	for i := range w.wishes {
		sum += w.wishes[i].factor * w.wishes[i].sums[value]
	}
	return sum
}
