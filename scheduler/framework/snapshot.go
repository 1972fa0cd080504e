// SPDX-License-Identifier: Apache-2.0

package framework

import "k8s.io/apimachinery/pkg/types"

// Snapshot is the cluster as one scheduling cycle sees it. The scheduling loop alone writes it,
// between cycles.
type Snapshot struct {
	Nodes  []*NodeInfo          // zones take turns, so that a prefix of it covers all zones
	ByName map[string]*NodeInfo // the same nodes

	WithAffinity             []*NodeInfo // nodes that have pods with affinity terms
	WithRequiredAntiAffinity []*NodeInfo
}

// NewSnapshot makes a snapshot of its own from nodes; the cache keeps one up to date instead.
func NewSnapshot(nodes ...*NodeInfo) *Snapshot {
	s := &Snapshot{ByName: make(map[string]*NodeInfo, len(nodes)), Nodes: nodes}
	for _, n := range nodes {
		s.ByName[n.Node.Name] = n
	}
	s.IndexAffinity()
	return s
}

// IndexAffinity brings the affinity lists in line with Nodes.
func (s *Snapshot) IndexAffinity() {
	clear(s.WithAffinity)
	clear(s.WithRequiredAntiAffinity)
	s.WithAffinity, s.WithRequiredAntiAffinity = s.WithAffinity[:0], s.WithRequiredAntiAffinity[:0]
	for _, n := range s.Nodes {
		if len(n.PodsWithAffinity) > 0 {
			s.WithAffinity = append(s.WithAffinity, n)
		}
		if len(n.PodsWithRequiredAntiAffinity) > 0 {
			s.WithRequiredAntiAffinity = append(s.WithRequiredAntiAffinity, n)
		}
	}
}

// ClaimUsers counts the pods on nodes that use a PersistentVolumeClaim.
func (s *Snapshot) ClaimUsers(claim types.NamespacedName) int {
	users := 0
	for _, n := range s.Nodes {
		users += n.PVCUsers[claim]
	}
	return users
}
