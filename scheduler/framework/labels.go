// SPDX-License-Identifier: Apache-2.0

package framework

import v1 "k8s.io/api/core/v1"

// Labels is what nodes have under a label key. It comes from a Snapshot, where the values lie side by side: to look at the nodes
// themselves takes ten times as long, when there are more than fit in the processor's caches.
type Labels struct {
	Key string
	of  []label // by position of the node; nil: look at the node
}

type label struct {
	node  *v1.Node
	value string
	ok    bool
}

// Labels returns the values of a key. Like Keep, it is not safe for concurrent use.
func (s *Snapshot) Labels(key string) Labels {
	return *s.Keep("label/"+key, func(nodes int) Kept { return &Labels{key, make([]label, nodes)} }).(*Labels)
}

// Recount implements Kept.
func (l *Labels) Recount(position int, node *NodeInfo) {
	value, ok := node.Node.Labels[l.Key]
	l.of[position] = label{node.Node, value, ok}
}

// Of returns a node's value, and whether it has one. The node may be any, but is quickest found if it is one of the snapshot or a clone.
func (l *Labels) Of(node *NodeInfo) (value string, ok bool) {
	if node.position < len(l.of) {
		if at := &l.of[node.position]; at.node == node.Node {
			return at.value, at.ok
		}
	}
	value, ok = node.Node.Labels[l.Key]
	return value, ok
}
