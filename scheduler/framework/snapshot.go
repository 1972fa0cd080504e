// SPDX-License-Identifier: Apache-2.0

package framework

import "k8s.io/apimachinery/pkg/types"

// Snapshot is the cluster as one scheduling cycle sees it. The scheduling loop alone writes it,
// between cycles.
//
// What plugins work out of all nodes they keep in it (Keep), so that from one cycle to the next only nodes that
// have changed are looked at. That is why a pod costs less than the number of nodes.
type Snapshot struct {
	Nodes  []*NodeInfo          // zones take turns, so that a prefix of it covers all zones
	ByName map[string]*NodeInfo // the same nodes

	// version counts changes of nodes: each change has its own. log has the nodes of the latest changes; the last entry is that of
	// version.
	version uint64
	log     []*NodeInfo
	kept    map[string]*kept
	asked   uint64 // how often Keep was called

	signatures map[string]struct{} // of pods, the latest

	// Room that one cycle after the other uses for its scores.
	scores    []int64
	positions []int
}

// Kept is something worked out of all nodes.
type Kept interface {
	// Recount takes over the node at a position of Snapshot.Nodes, instead of what it was before.
	Recount(position int, node *NodeInfo)
}

type kept struct {
	Kept
	seen uint64 // the snapshot's version that it is in line with
	used uint64 // the value of Snapshot.asked
}

const (
	// maxLog changes are remembered at least; what is further behind looks at the versions of all nodes.
	maxLog = 1024
	// maxKept is how much is kept: this number of values, each of them once for each node.
	maxKept, minKeptValues, maxKeptValues = 1 << 18, 8, 256
	// maxSignatures are remembered.
	maxSignatures = 256
)

// NewSnapshot makes a snapshot of its own from nodes; the cache keeps one up to date instead.
func NewSnapshot(nodes ...*NodeInfo) *Snapshot {
	s := &Snapshot{ByName: make(map[string]*NodeInfo, len(nodes))}
	for _, n := range nodes {
		s.ByName[n.Node.Name] = n
	}
	s.SetOrder(nodes)
	return s
}

// SetNode takes over a node, which belongs to the snapshot from now on. A new one has no place before the next SetOrder.
func (s *Snapshot) SetNode(node *NodeInfo) {
	old := s.ByName[node.Node.Name]
	if old == nil {
		s.ByName[node.Node.Name] = node
		return
	}
	node.position = old.position
	*old = *node
	s.changed(old)
}

// Touch has what is kept about a node counted again, if there is such a node: something has changed that is not in the node itself.
func (s *Snapshot) Touch(nodeName string) {
	if node := s.ByName[nodeName]; node != nil {
		s.changed(node)
	}
}

func (s *Snapshot) changed(node *NodeInfo) {
	s.version++
	node.version = s.version
	if len(s.log) >= 2*maxLog {
		s.log = append(s.log[:0], s.log[maxLog:]...)
	}
	s.log = append(s.log, node)
}

// again says whether there was such a signature of late.
func (s *Snapshot) again(signature string) bool {
	if _, seen := s.signatures[signature]; seen {
		return true
	}
	if s.signatures == nil || len(s.signatures) >= maxSignatures {
		s.signatures = make(map[string]struct{})
	}
	s.signatures[signature] = struct{}{}
	return false
}

// SetOrder says which nodes there are, in which order. What was kept is forgotten.
func (s *Snapshot) SetOrder(nodes []*NodeInfo) {
	s.version++
	s.Nodes, s.log, s.kept = nodes, nil, make(map[string]*kept)
	for i, n := range nodes {
		n.position, n.version = i, s.version
	}
}

// Keep returns the value kept under id, in line with the nodes; the first time it is made, and all nodes are counted. It is not safe
// for concurrent use: plugins call it in PreFilter and PreScore.
func (s *Snapshot) Keep(id string, make func(nodes int) Kept) Kept {
	s.asked++
	k := s.kept[id]
	if k == nil {
		if len(s.kept) >= max(minKeptValues, min(maxKept/max(len(s.Nodes), 1), maxKeptValues)) {
			s.forgetOldest()
		}
		k = &kept{Kept: make(len(s.Nodes))}
		s.kept[id] = k
	}
	s.recount(k)
	k.used = s.asked
	return k.Kept
}

func (s *Snapshot) recount(k *kept) {
	if behind := s.version - k.seen; behind <= uint64(len(s.log)) {
		for i, node := range s.log[uint64(len(s.log))-behind:] {
			if node.version == k.seen+1+uint64(i) { // this was its latest change
				k.Recount(node.position, node)
			}
		}
	} else {
		for i, node := range s.Nodes {
			if node.version > k.seen {
				k.Recount(i, node)
			}
		}
	}
	k.seen = s.version
}

func (s *Snapshot) forgetOldest() {
	oldest := ""
	for id, k := range s.kept {
		if oldest == "" || k.used < s.kept[oldest].used {
			oldest = id
		}
	}
	delete(s.kept, oldest)
}

// ClaimUsers counts the pods on nodes that use a PersistentVolumeClaim.
func (s *Snapshot) ClaimUsers(claim types.NamespacedName) int {
	users := 0
	for _, n := range s.Nodes {
		users += n.PVCUsers[claim]
	}
	return users
}
