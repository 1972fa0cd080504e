// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"encoding/binary"
	"slices"
)

// Local is a Filter, a Scorer or both that looks at nothing but the node and what Sign tells of the pod; whether it skips the pod
// depends on that alone, too. What it says of a node is kept for all pods of the same signature until the node, or who is nominated to it, changes: that is
// why replicas cost much less than the number of nodes. A Local must not be a Tracker.
//
// Of the filters, those before the first that is not Local are kept.
type Local interface {
	Plugin
	// Sign appends to b what the plugin reads of the pod, in a way that keeps different things different. It returns false if the plugin's answers
	// for this pod depend on something else as well.
	Sign(b []byte, pod *PodInfo) ([]byte, bool)
}

// Message is a protobuf message, as all types of the API are.
type Message interface {
	Size() int
	MarshalTo(data []byte) (int, error)
}

// SignMessage appends an object to a signature.
func SignMessage(b []byte, m Message) []byte {
	size := m.Size()
	b = binary.AppendUvarint(b, uint64(size))
	end := len(b) + size
	for cap(b) < end {
		b = append(b[:cap(b)], 0)
	}
	if _, err := m.MarshalTo(b[end-size : end]); err != nil {
		panic("framework: an object of the API does not fit its own size: " + err.Error())
	}
	return b[:end]
}

// SignString appends a text to a signature.
func SignString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// findLocal collects the plugins of a profile whose answers are kept.
func (p *Profile) findLocal() {
	for i := range p.filters {
		l, ok := p.filters[i].plugin.(Local)
		if _, tracks := p.filters[i].plugin.(Tracker); !ok || tracks {
			break
		}
		p.localFilters++
		p.locals = append(p.locals, l)
	}
	p.localScore = make([]int, len(p.scorers))
	for i := range p.scorers {
		p.localScore[i] = -1
		if l, ok := p.scorers[i].plugin.(Local); ok {
			p.localScore[i] = p.localScorers
			p.localScorers++
			p.locals = append(p.locals, l)
		}
	}
}

// signature is the same for pods about which the Local plugins say the same; "" if they may not.
func (p *Profile) signature(pod *PodInfo) string {
	b := make([]byte, 0, 256)
	b = SignString(b, p.SchedulerName)
	b = binary.AppendVarint(b, int64(Priority(pod.Pod))) // which nominated pods count
	for _, l := range p.locals {
		var ok bool
		if b, ok = l.Sign(b, pod); !ok {
			return ""
		}
	}
	return string(b)
}

// localVerdict is what the Local filters say of a node, nominated pods counted in.
type localVerdict struct {
	status    *Status
	filter    int16 // position in Profile.filters
	known     bool
	nominated bool // there are pods that count, which other filters may mind
}

// localVerdicts are Kept, by position of the node.
type localVerdicts []localVerdict

// Recount implements Kept.
func (v localVerdicts) Recount(position int, _ *NodeInfo) { v[position] = localVerdict{} }

// localScores are what the Local scorers say of each node. They are Kept.
type localScores struct {
	perNode int
	scores  []int64 // perNode for each position
	known   []bool
}

// Recount implements Kept.
func (s *localScores) Recount(position int, _ *NodeInfo) { s.known[position] = false }

// Remember has the cycle use, and add to, what is kept in its Snapshot about pods like this one. It is for the one who owns the
// snapshot, and comes before PreFilter. What is kept pays off from the second such pod on.
func (c *Cycle) Remember() {
	signature := c.Profile.signature(c.Pod)
	if signature == "" || !c.Snapshot.again(signature) {
		return
	}
	c.signature = signature
	c.own = -1
	if node := c.Snapshot.ByName[c.nominator.NodeOf(c.Pod.Pod.UID)]; node != nil {
		c.own = node.position // all pods of the signature but this one count it there
	}
}

// keepVerdicts is called once it is clear that all nodes may be looked at.
func (c *Cycle) keepVerdicts() {
	c.others = c.asksOthers()
	if c.signature != "" {
		c.verdicts = c.Snapshot.Keep("filter/"+c.signature, func(nodes int) Kept { return make(localVerdicts, nodes) }).(localVerdicts)
	}
}

// Signature tells pods apart by what Local plugins say; false if filters that are not Local have a say, or if nothing is kept about such pods.
func (c *Cycle) Signature() (id string, ok bool) { return c.signature, c.verdicts != nil && !c.others }

// IsOwn says whether the pod is nominated to the node at the position, which makes it differ from other pods like it.
func (c *Cycle) IsOwn(position int) bool { return c.own == position }

// asksOthers says whether filters that are not Local have something to do.
func (c *Cycle) asksOthers() bool {
	for i := c.Profile.localFilters; i < len(c.Profile.filters); i++ {
		if !c.skipFilter[c.Profile.filters[i].pos] {
			return true
		}
	}
	return false
}

// Knows says whether FilterAt has nothing to find out about the node at the position. It is false if others than Local filters have a say.
func (c *Cycle) Knows(position int) bool {
	return c.verdicts != nil && !c.others && c.own != position && c.verdicts[position].known
}

// FilterAt is Filter for the node at a position of the snapshot, by what is kept where possible.
func (c *Cycle) FilterAt(position int) (plugin string, status *Status) {
	if c.verdicts == nil || position == c.own {
		return c.Filter(c.Snapshot.Nodes[position])
	}
	v := &c.verdicts[position]
	if !v.known {
		*v = c.askLocal(c.Snapshot.Nodes[position])
	}
	switch {
	case v.status != nil:
		return c.Profile.filters[v.filter].plugin.Name(), v.status
	case !c.others:
		return "", nil
	case v.nominated:
		return c.Filter(c.Snapshot.Nodes[position])
	}
	at, status := c.ask(c.Snapshot.Nodes[position], c.Profile.localFilters, len(c.Profile.filters))
	return c.rejector(at, status), status
}

// askLocal asks the Local filters. An error is not worth keeping.
func (c *Cycle) askLocal(node *NodeInfo) localVerdict {
	var v localVerdict
	var at int
	if nominated := c.moreImportantNominated(node.Node.Name); len(nominated) > 0 {
		v.nominated = true
		with := node.Clone()
		for _, p := range nominated {
			with.AddPod(p)
		}
		at, v.status = c.ask(with, 0, c.Profile.localFilters)
	}
	if v.status == nil {
		at, v.status = c.ask(node, 0, c.Profile.localFilters)
	}
	v.filter = int16(at)
	v.known = v.status == nil || v.status.IsRejected()
	return v
}

// keptScores returns what the Local scorers say of the nodes, and the nodes' positions; nil if nothing is kept.
func (c *Cycle) keptScores(nodes []*NodeInfo) (*localScores, []int) {
	if c.signature == "" || c.Profile.localScorers == 0 {
		return nil, nil
	}
	k := c.Snapshot.Keep("score/"+c.signature, func(nodes int) Kept {
		n := c.Profile.localScorers
		return &localScores{perNode: n, scores: make([]int64, n*nodes), known: make([]bool, nodes)}
	}).(*localScores)
	positions := slices.Grow(c.Snapshot.positions[:0], len(nodes))[:len(nodes)]
	c.Snapshot.positions = positions
	for j, node := range nodes {
		positions[j] = node.position
		if !k.known[node.position] {
			k.known[node.position] = true
			c.scoreLocally(node, k.scores[node.position*k.perNode:])
		}
	}
	return k, positions
}

func (c *Cycle) scoreLocally(node *NodeInfo, row []int64) {
	for i, at := range c.Profile.localScore {
		s := &c.Profile.scorers[i]
		if state, skip := c.scoreState(s.pos); at >= 0 && !skip {
			row[at] = s.plugin.Score(state, c.Pod, node)
		}
	}
}
