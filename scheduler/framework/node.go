// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"maps"
	"slices"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// NodeInfo is a node with its pods, added up. The cache owns and changes its own; those in a
// Snapshot do not change, except clones inside a preemption's dry run.
type NodeInfo struct {
	// What is looked at for node after node comes first, side by side: with many nodes it is not in the processor's caches.

	Node     *v1.Node               // nil while only pods of the node are known
	position int                    // in Snapshot.Nodes
	Images   map[string]*ImageState // by image name; shared, not changed
	version  uint64                 // the snapshot's, when it changed

	Pods             []*PodInfo
	PodsWithAffinity []*PodInfo // subset of Pods

	Requested   Resource // sum of the pods' Request
	NonZero     Resource // sum of the pods' NonZero
	Allocatable Resource

	UsedPorts HostPorts
	PVCUsers  map[types.NamespacedName]int
}

// ImageState is what image locality knows of an image.
type ImageState struct {
	Size  int64
	Nodes atomic.Int64 // how many nodes have it; the cache counts while a cycle reads
}

// Position of the node in Snapshot.Nodes.
func (n *NodeInfo) Position() int { return n.position }

// SetNode takes over what the Node object says.
func (n *NodeInfo) SetNode(node *v1.Node) {
	n.Node = node
	n.Allocatable = NewResource(node.Status.Allocatable)
}

// AddPod counts a pod in.
func (n *NodeInfo) AddPod(p *PodInfo) {
	n.Pods = append(n.Pods, p)
	if p.HasAffinity() {
		n.PodsWithAffinity = append(n.PodsWithAffinity, p)
	}
	n.count(p, 1)
}

// RemovePod counts a pod out, and says whether it was there.
func (n *NodeInfo) RemovePod(pod *v1.Pod) bool {
	p := removeUID(&n.Pods, pod.UID)
	if p == nil {
		return false
	}
	removeUID(&n.PodsWithAffinity, pod.UID)
	n.count(p, -1)
	return true
}

// ReplacePod takes over another version of a pod that is there and counts the same.
func (n *NodeInfo) ReplacePod(p *PodInfo) {
	for _, list := range [][]*PodInfo{n.Pods, n.PodsWithAffinity} {
		for i := range list {
			if list[i].Pod.UID == p.Pod.UID {
				list[i] = p
			}
		}
	}
}

// PodByUID returns a pod of the node, nil if there is none.
func (n *NodeInfo) PodByUID(uid types.UID) *v1.Pod {
	i := slices.IndexFunc(n.Pods, func(p *PodInfo) bool { return p.Pod.UID == uid })
	if i < 0 {
		return nil
	}
	return n.Pods[i].Pod
}

func (n *NodeInfo) count(p *PodInfo, sign int) {
	n.Requested.Add(&p.Request, int64(sign))
	n.NonZero.Add(&p.NonZero, int64(sign))
	for i := range p.Ports {
		n.UsedPorts.update(&p.Ports[i], sign)
	}
	for i := range p.Pod.Spec.Volumes {
		if source := p.Pod.Spec.Volumes[i].PersistentVolumeClaim; source != nil {
			n.countClaim(types.NamespacedName{Namespace: p.Pod.Namespace, Name: source.ClaimName}, sign)
		}
	}
}

func (n *NodeInfo) countClaim(claim types.NamespacedName, sign int) {
	if n.PVCUsers == nil {
		n.PVCUsers = make(map[types.NamespacedName]int)
	}
	if n.PVCUsers[claim] += sign; n.PVCUsers[claim] <= 0 {
		delete(n.PVCUsers, claim)
	}
}

// removeUID takes a pod out of a list, whose order does not matter, and returns it.
func removeUID(list *[]*PodInfo, uid types.UID) *PodInfo {
	i := slices.IndexFunc(*list, func(p *PodInfo) bool { return p.Pod.UID == uid })
	if i < 0 {
		return nil
	}
	l := *list
	p, last := l[i], len(l)-1
	l[i], l[last] = l[last], nil
	*list = l[:last]
	return p
}

// Clone returns a copy that may be changed on its own.
func (n *NodeInfo) Clone() *NodeInfo {
	c := *n
	c.Pods = slices.Clone(n.Pods)
	c.PodsWithAffinity = slices.Clone(n.PodsWithAffinity)
	c.Requested = n.Requested.clone()
	c.NonZero = n.NonZero.clone()
	c.UsedPorts = maps.Clone(n.UsedPorts)
	c.PVCUsers = maps.Clone(n.PVCUsers)
	return &c
}

// HostPorts counts the host ports in use on a node; a nil map is empty.
type HostPorts map[HostPort]int

// HostPort is one address of a node.
type HostPort struct {
	IP       string
	Protocol v1.Protocol
	Port     int32
}

const anyIP = "0.0.0.0"

func newHostPort(port *v1.ContainerPort) HostPort {
	h := HostPort{IP: port.HostIP, Protocol: port.Protocol, Port: port.HostPort}
	if h.IP == "" {
		h.IP = anyIP
	}
	if h.Protocol == "" {
		h.Protocol = v1.ProtocolTCP
	}
	return h
}

func (h *HostPorts) update(port *v1.ContainerPort, sign int) {
	if *h == nil {
		*h = make(HostPorts)
	}
	key := newHostPort(port)
	if (*h)[key] += sign; (*h)[key] <= 0 {
		delete(*h, key)
	}
}

// Conflicts says whether port is taken. 0.0.0.0 conflicts with every address.
func (h HostPorts) Conflicts(port *v1.ContainerPort) bool {
	if len(h) == 0 || port.HostPort <= 0 {
		return false
	}
	want := newHostPort(port)
	if want.IP != anyIP {
		wild := want
		wild.IP = anyIP
		return h[want] > 0 || h[wild] > 0
	}
	for used := range h {
		if used.Port == want.Port && used.Protocol == want.Protocol {
			return true
		}
	}
	return false
}
