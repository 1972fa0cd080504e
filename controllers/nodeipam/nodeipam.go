// SPDX-License-Identifier: Apache-2.0

// Package nodeipam gives each node a part of the cluster's pod addresses: spec.podCIDRs.
//
// There is one range per IP family, cut into equal blocks. Which blocks are taken is learned from the nodes
// themselves, so there is nothing to store. A node's block is free again when the node is deleted. Another server may
// have given blocks away until a moment ago, which informers need not know yet: before the first one the API is asked.
package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/controllers/metrics"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// Name is the controller's identity (it has the node controller's), Component its name in events.
const (
	Name      = "node-controller"
	Component = "cidrAllocator"
)

// Range is a part of the cluster's pod addresses of one IP family.
type Range struct {
	Cluster  netip.Prefix // e.g. 10.42.0.0/16
	NodeBits int          // prefix length of a node's block, e.g. 24
}

type controller struct {
	client  kubernetes.Interface
	nodes   corelisters.NodeLister
	events  record.EventRecorder
	metrics *metrics.Blocks
	asked   bool // the API, for all nodes; of the one worker

	mu     sync.Mutex
	blocks []*blocks                 // one per range; guarded by mu
	given  map[string][]netip.Prefix // by node; guarded by mu
}

// New returns the controller that allocates from these ranges: one, or one per IP family.
func New(client kubernetes.Interface, factory informers.SharedInformerFactory, events record.EventRecorder, measured *metrics.Blocks, ranges []Range) (reconcile.Controller, error) {
	nodes := factory.Core().V1().Nodes()
	c := &controller{client: client, nodes: nodes.Lister(), events: events, metrics: measured, given: map[string][]netip.Prefix{}}
	for _, r := range ranges {
		b, err := newBlocks(r)
		if err != nil {
			return reconcile.Controller{}, err
		}
		c.blocks = append(c.blocks, b)
		measured.Max.WithLabelValues(b.cluster.String()).Set(float64(b.count()))
	}
	return reconcile.Controller{
		Name:      "node_ipam",
		Reconcile: c.Reconcile,
		Workers:   1,
		Watches:   []reconcile.Watch{reconcile.On(nodes.Informer(), c.nodeChanged)},
		Loop: func(ctx context.Context, _ reconcile.Queue) error {
			running := measured.Running.WithLabelValues("nodeipam", "kube-controller-manager")
			running.Set(1)
			defer running.Set(0)
			<-ctx.Done()
			return nil
		},
	}, nil
}

// nodeChanged learns what nodes have. All that exist have been seen here before the first block is given away.
func (c *controller) nodeChanged(q reconcile.Queue, old, new *corev1.Node) {
	switch {
	case new == nil:
		c.release(old.Name)
	case len(new.Spec.PodCIDRs) > 0:
		c.learn(new)
	default:
		q.Add(reconcile.KeyOf(new))
	}
}

func (c *controller) learn(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.given[node.Name]) > 0 {
		return // what a node has never changes
	}
	for _, cidr := range node.Spec.PodCIDRs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			continue
		}
		for _, b := range c.blocks {
			b.take(prefix)
			c.measureUsage(b)
		}
		c.given[node.Name] = append(c.given[node.Name], prefix)
	}
}

func (c *controller) release(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, prefix := range c.given[node] {
		for _, b := range c.blocks {
			if b.cluster.Overlaps(prefix) {
				c.metrics.Releases.WithLabelValues(b.cluster.String()).Inc()
			}
			b.free(prefix)
			c.measureUsage(b)
		}
	}
	delete(c.given, node)
}

// Reconcile gives a node that has none a block of each range.
func (c *controller) Reconcile(ctx context.Context, key types.NamespacedName) (reconcile.Result, error) {
	node, err := c.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && len(node.Spec.PodCIDRs) > 0 {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	if err := c.askOnce(ctx); err != nil {
		return reconcile.Result{}, err
	}
	prefixes, err := c.allocate(node.Name)
	if err != nil {
		c.tell(node, "CIDRNotAvailable")
		return reconcile.Result{}, err
	}
	var cidrs []string
	for _, prefix := range prefixes {
		cidrs = append(cidrs, prefix.String())
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": cidrs[0], "podCIDRs": cidrs},
	})
	if err != nil {
		return reconcile.Result{}, err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsConflict(err) {
		c.release(node.Name) // surely not written; after other errors nobody knows, and the block stays the node's
	}
	if err != nil {
		c.tell(node, "CIDRAssignmentFailed")
		return reconcile.Result{}, fmt.Errorf("set pod CIDRs: %w", err)
	}
	klog.FromContext(ctx).Info("Set node PodCIDR", "podCIDRs", cidrs)
	return reconcile.Result{}, nil
}

// askOnce learns what nodes have from the API itself.
func (c *controller) askOnce(ctx context.Context) error {
	if c.asked {
		return nil
	}
	all, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for i := range all.Items {
		if len(all.Items[i].Spec.PodCIDRs) > 0 {
			c.learn(&all.Items[i])
		}
	}
	c.asked = true
	return nil
}

func (c *controller) measureUsage(b *blocks) {
	c.metrics.Usage.WithLabelValues(b.cluster.String()).Set(float64(b.used()) / float64(b.count()))
}

// tell records why a node has no addresses for pods.
func (c *controller) tell(node *corev1.Node, status string) {
	c.events.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID},
		corev1.EventTypeNormal, status, "Node %s status is now: %s", node.Name, status)
}

// allocate returns the blocks of a node: those that it was given before, if there are any.
func (c *controller) allocate(node string) ([]netip.Prefix, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if given := c.given[node]; len(given) > 0 {
		return given, nil
	}
	var prefixes []netip.Prefix
	for _, b := range c.blocks {
		prefix, tries, ok := b.next()
		if !ok {
			for i, taken := range prefixes {
				c.blocks[i].free(taken)
			}
			return nil, fmt.Errorf("no free block of pod addresses left in %s", b.cluster)
		}
		c.metrics.Allocations.WithLabelValues(b.cluster.String()).Inc()
		c.metrics.Tries.WithLabelValues(b.cluster.String()).Observe(float64(tries))
		c.measureUsage(b)
		prefixes = append(prefixes, prefix)
	}
	if len(prefixes) == 0 {
		return nil, errors.New("no range of pod addresses is configured")
	}
	c.given[node] = prefixes
	return prefixes, nil
}
