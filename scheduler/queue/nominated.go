// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"slices"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Nominated knows which pending pods are expected on which node. It is safe for concurrent use.
type Nominated struct {
	pods   atomic.Int64 // len(node), for the usual case that there are none
	mu     sync.RWMutex
	byNode map[string][]*framework.PodInfo // a list is replaced, never changed: readers keep it
	node   map[types.UID]string
	// changed has the nodes whose list has changed since Changed was called last.
	changed map[string]struct{}
}

// NewNominated returns an empty table.
func NewNominated() *Nominated {
	return &Nominated{byNode: make(map[string][]*framework.PodInfo), node: make(map[types.UID]string), changed: make(map[string]struct{})}
}

// NominatedPods implements framework.Nominator.
func (n *Nominated) NominatedPods(nodeName string) []*framework.PodInfo {
	if n.pods.Load() == 0 {
		return nil
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.byNode[nodeName]
}

// Set records the pod's nomination; "" withdraws it.
func (n *Nominated) Set(p *framework.PodInfo, nodeName string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remove(p.Pod.UID)
	if nodeName == "" {
		return
	}
	n.node[p.Pod.UID] = nodeName
	n.pods.Store(int64(len(n.node)))
	n.byNode[nodeName] = append(slices.Clip(n.byNode[nodeName]), p)
	n.changed[nodeName] = struct{}{}
}

// NodeOf implements framework.Nominator.
func (n *Nominated) NodeOf(pod types.UID) string {
	if n.pods.Load() == 0 {
		return ""
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.node[pod]
}

// Changed tells which nodes have gained or lost a nominated pod since it was called last.
func (n *Nominated) Changed(tell func(nodeName string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for nodeName := range n.changed {
		tell(nodeName)
	}
	clear(n.changed)
}

// Update takes over a changed pod. A nomination that this process made and the API server has not yet
// reported stays.
func (n *Nominated) Update(p *framework.PodInfo, oldNode string) {
	n.mu.RLock()
	current := n.node[p.Pod.UID]
	n.mu.RUnlock()
	nodeName := p.Pod.Status.NominatedNodeName
	if nodeName == "" && oldNode == "" {
		nodeName = current
	}
	n.Set(p, nodeName)
}

// Remove withdraws the pod's nomination.
func (n *Nominated) Remove(pod *v1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remove(pod.UID)
}

func (n *Nominated) remove(uid types.UID) {
	nodeName, ok := n.node[uid]
	if !ok {
		return
	}
	delete(n.node, uid)
	n.changed[nodeName] = struct{}{}
	n.pods.Store(int64(len(n.node)))
	rest := slices.DeleteFunc(slices.Clone(n.byNode[nodeName]), func(p *framework.PodInfo) bool { return p.Pod.UID == uid })
	if len(rest) == 0 {
		delete(n.byNode, nodeName)
	} else {
		n.byNode[nodeName] = rest
	}
}
