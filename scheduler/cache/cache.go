// SPDX-License-Identifier: Apache-2.0

// Package cache keeps the nodes with the pods that run on them, and those about to be bound.
//
// A pod is assumed on its node as soon as the scheduler has decided, so that the next decision counts it
// in; the informer's word, or Forget, settles the matter. Snapshots are brought up to date by copying
// only the nodes that changed.
package cache

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Cache is safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	nodes map[string]*framework.NodeInfo // also nodes not (or no longer) known that have pods: Node is nil
	pods  map[types.UID]*placedPod
	order []string // names of known nodes, oldest first

	images map[string]*framework.ImageState

	dirty  map[string]struct{} // nodes that differ from the snapshot
	relist bool                // nodes came, went, or moved between zones
}

type placedPod struct {
	*framework.PodInfo
	assumed bool
}

// New returns an empty cache.
func New() *Cache {
	return &Cache{
		nodes:  make(map[string]*framework.NodeInfo),
		pods:   make(map[types.UID]*placedPod),
		images: make(map[string]*framework.ImageState),
		dirty:  make(map[string]struct{}),
	}
}

// Assume counts in a pod that is going to be bound to its spec.nodeName.
func (c *Cache) Assume(p *framework.PodInfo) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pods[p.Pod.UID]; ok {
		return fmt.Errorf("pod %v is in the cache, so can't be assumed", framework.Key(p.Pod))
	}
	c.place(p, true)
	return nil
}

// Forget takes back Assume. It leaves alone a pod that the API server reports as bound.
func (c *Cache) Forget(pod *v1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pods[pod.UID]; p != nil && p.assumed {
		c.remove(p)
	}
}

// IsAssumed says whether the pod is assumed and not yet confirmed.
func (c *Cache) IsAssumed(pod *v1.Pod) bool { return c.AssumedOn(pod) != "" }

// AssumedOn names the node that the pod is assumed on; "" if it is not.
func (c *Cache) AssumedOn(pod *v1.Pod) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pods[pod.UID]; p != nil && p.assumed {
		return p.Pod.Spec.NodeName
	}
	return ""
}

// SetPod records a pod that the API server reports on a node. That beats what was assumed.
func (c *Cache) SetPod(p *framework.PodInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.pods[p.Pod.UID]; old != nil {
		if alike(old.PodInfo, p) {
			c.nodes[p.Pod.Spec.NodeName].ReplacePod(p)
			old.PodInfo, old.assumed = p, false
			return
		}
		c.remove(old)
	}
	c.place(p, false)
}

// alike says whether decisions about other pods are the same with either version of a pod. So it is when an assumed pod is confirmed, and when the
// kubelet reports that it runs well: snapshots may keep the earlier version.
func alike(a, b *framework.PodInfo) bool {
	x, y := a.Pod, b.Pod
	return x.Spec.NodeName == y.Spec.NodeName && x.Generation == y.Generation && maps.Equal(x.Labels, y.Labels) &&
		x.DeletionTimestamp.Equal(y.DeletionTimestamp) && x.Status.StartTime.Equal(y.Status.StartTime) &&
		a.Request.Equal(&b.Request) && a.NonZero.Equal(&b.NonZero)
}

// RemovePod forgets a pod that is gone or has finished, whatever it was. It returns the pod as it was known here, nil if it was not.
func (c *Cache) RemovePod(pod *v1.Pod) *v1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pods[pod.UID]
	if p == nil {
		return nil
	}
	c.remove(p)
	return p.Pod
}

func (c *Cache) place(p *framework.PodInfo, assumed bool) {
	name := p.Pod.Spec.NodeName
	n := c.nodes[name]
	if n == nil {
		n = &framework.NodeInfo{}
		c.nodes[name] = n
	}
	n.AddPod(p)
	c.pods[p.Pod.UID] = &placedPod{p, assumed}
	c.dirty[name] = struct{}{}
}

func (c *Cache) remove(p *placedPod) {
	name := p.Pod.Spec.NodeName
	n := c.nodes[name]
	n.RemovePod(p.Pod)
	if n.Node == nil && len(n.Pods) == 0 {
		delete(c.nodes, name)
	}
	delete(c.pods, p.Pod.UID)
	c.dirty[name] = struct{}{}
}

// SetNode records a node, new or changed.
func (c *Cache) SetNode(node *v1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node.Name]
	if n == nil {
		n = &framework.NodeInfo{}
		c.nodes[node.Name] = n
	}
	if n.Node == nil {
		c.order = append(c.order, node.Name)
		c.relist = true
	} else if zone(n.Node) != zone(node) {
		c.relist = true
	}
	c.setImages(n, node)
	n.SetNode(node)
	c.dirty[node.Name] = struct{}{}
}

// RemoveNode forgets a node. Its pods stay until they are reported gone.
func (c *Cache) RemoveNode(node *v1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node.Name]
	if n == nil || n.Node == nil {
		return
	}
	c.dropImages(n)
	n.Node, n.Images, n.Allocatable = nil, nil, framework.Resource{}
	if len(n.Pods) == 0 {
		delete(c.nodes, node.Name)
	}
	c.order = slices.DeleteFunc(c.order, func(name string) bool { return name == node.Name })
	c.relist = true
	c.dirty[node.Name] = struct{}{}
}

// setImages keeps the maps of nodes whose images stay as they are, which is the common update.
func (c *Cache) setImages(n *framework.NodeInfo, node *v1.Node) {
	if n.Node != nil && slices.EqualFunc(n.Node.Status.Images, node.Status.Images, sameImage) {
		return
	}
	c.dropImages(n)
	images := make(map[string]*framework.ImageState, len(node.Status.Images))
	for _, image := range node.Status.Images {
		for _, name := range image.Names {
			state := c.images[name]
			if state == nil {
				state = &framework.ImageState{Size: image.SizeBytes}
				c.images[name] = state
			}
			if images[name] == nil {
				state.Nodes.Add(1)
				images[name] = state
			}
		}
	}
	n.Images = images
}

func sameImage(a, b v1.ContainerImage) bool {
	return a.SizeBytes == b.SizeBytes && slices.Equal(a.Names, b.Names)
}

func (c *Cache) dropImages(n *framework.NodeInfo) {
	for name, state := range n.Images {
		if state.Nodes.Add(-1) == 0 {
			delete(c.images, name)
		}
	}
}

// UpdateSnapshot brings s in line with the cache. Only one snapshot may be kept per cache.
func (c *Cache) UpdateSnapshot(s *framework.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.dirty) == 0 && !c.relist {
		return
	}
	for name := range c.dirty {
		if n := c.nodes[name]; n == nil || n.Node == nil {
			delete(s.ByName, name)
		} else {
			s.SetNode(n.Clone())
		}
	}
	if c.relist {
		s.SetOrder(c.interleaveZones(s))
	}
	clear(c.dirty)
	c.relist = false
}

// Count says how much there is.
func (c *Cache) Count() (nodes, pods, assumed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pods {
		if p.assumed {
			assumed++
		}
	}
	return len(c.order), len(c.pods), assumed
}

// Snapshot returns a view of its own, which is not kept up to date.
func (c *Cache) Snapshot() *framework.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := framework.NewSnapshot()
	for _, name := range c.order {
		s.ByName[name] = c.nodes[name].Clone()
	}
	s.SetOrder(c.interleaveZones(s))
	return s
}

// interleaveZones lists the nodes, one of each zone in turn.
func (c *Cache) interleaveZones(s *framework.Snapshot) []*framework.NodeInfo {
	byZone := make(map[string][]*framework.NodeInfo)
	for _, name := range c.order {
		n := s.ByName[name]
		byZone[zone(n.Node)] = append(byZone[zone(n.Node)], n)
	}
	zones := slices.Sorted(maps.Keys(byZone))
	list := make([]*framework.NodeInfo, 0, len(c.order))
	for i := 0; len(list) < len(c.order); i++ {
		for _, z := range zones {
			if i < len(byZone[z]) {
				list = append(list, byZone[z][i])
			}
		}
	}
	return list
}

// zone names a node's region and zone; "" if it has none.
func zone(node *v1.Node) string {
	region, zone := node.Labels[v1.LabelTopologyRegion], node.Labels[v1.LabelTopologyZone]
	if region == "" && zone == "" {
		return ""
	}
	return region + "\x00" + zone
}
