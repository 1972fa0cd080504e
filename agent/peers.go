// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/network"
)

// followPeers tells the pod network of the other nodes, until ctx ends.
func (a *Agent) followPeers(ctx context.Context) error {
	nodes := a.deps.Informers.Core().V1().Nodes()
	changed := make(chan struct{}, 1)
	look := func() {
		select {
		case changed <- struct{}{}:
		default: // already asked for
		}
	}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { look() },
		DeleteFunc: func(any) { look() },
		UpdateFunc: func(old, new any) {
			o, n := old.(*corev1.Node), new.(*corev1.Node)
			if !equality.Semantic.DeepEqual(o.Status.Addresses, n.Status.Addresses) || !slices.Equal(o.Spec.PodCIDRs, n.Spec.PodCIDRs) {
				look()
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch other nodes: %w", err)
	}
	defer func() { _ = nodes.Informer().RemoveEventHandler(registration) }()
	if !cache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
		return nil
	}
	look() // nobody but this node is a thing to know too
	var last []network.Peer
	for first := true; ; first = false {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
		all, err := nodes.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		if now := peers(all, a.cfg.NodeName, a.cfg.NodeIP.To4() != nil); first || !reflect.DeepEqual(now, last) {
			a.network.SetPeers(now)
			last = now
		}
	}
}

// peers are the other nodes that have an address, of the family of this one's, and pods' addresses; in order.
func peers(all []*corev1.Node, own string, ipv4 bool) []network.Peer {
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	var out []network.Peer
	for _, node := range all {
		var peer network.Peer
		for _, cidr := range node.Spec.PodCIDRs {
			if prefix, err := netip.ParsePrefix(cidr); err == nil { // the API server has validated it
				peer.PodCIDRs = append(peer.PodCIDRs, prefix.Masked())
			}
		}
		for _, a := range slices.Backward(node.Status.Addresses) {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() == ipv4 {
				peer.Address = ip
			}
		}
		if node.Name != own && peer.Address.IsValid() && len(peer.PodCIDRs) > 0 {
			out = append(out, peer)
		}
	}
	return out
}
