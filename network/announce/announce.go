// SPDX-License-Identifier: Apache-2.0

// Package announce makes addresses of LoadBalancer Services known on the network of the nodes: one node says by ARP or NDP
// that it has an address, and the others send there. What it then does with the packets is the Service proxy's.
//
// All nodes work out for themselves who that one is, from the same objects and with the same result (owner): of those that
// are Ready, by what the control plane makes of their Leases, the one that the address is hashed to; with
// externalTrafficPolicy Local of those that have an endpoint. So nothing is written down, and when a node is lost only its
// addresses move. The new one tells everybody (gratuitous ARP, unsolicited advertisements).
//
// A node that has lost its server cannot know that another one took over. It goes on, because all may have lost it, until it
// hears another one say that it has the address: then it asks, and gives way if nobody answers.
//
// No interface gets the address. So nothing is left of it when this process ends, however it ends.
package announce

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/network/addresspool"
	"github.com/skiff-k8s/skiff/network/loadbalancer"
)

// Config says what to announce, and where.
type Config struct {
	NodeName string
	NodeIP   netip.Addr       // addresses are announced on the interface that has it
	Pool     addresspool.Pool // only addresses of it are
}

// Announcer announces a node's share of the addresses.
type Announcer struct {
	cfg      Config
	client   kubernetes.Interface
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	factory  informers.SharedInformerFactory
	speakers map[bool]*speaker // by whether it is IPv4

	wake   chan struct{}   // capacity 1
	claims chan netip.Addr // that another machine says it has; not valid: look at the wires again

	// What follows is of Run's goroutine.
	current map[netip.Addr]bool
	yielded map[netip.Addr]bool // ours, but another one has them and no server says otherwise
}

const (
	askPatience = 3 * time.Second // with the API, when another machine says that it has our address
	lookAgain   = 5 * time.Second // whether the API answers, or the network is back
	notOften    = time.Second     // between two answers to the same claim
)

// New returns an Announcer. It must be called before the factory starts.
func New(cfg Config, client kubernetes.Interface, factory informers.SharedInformerFactory) *Announcer {
	a := &Announcer{
		cfg: cfg, client: client, factory: factory,
		services: factory.Core().V1().Services().Lister(),
		nodes:    factory.Core().V1().Nodes().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
		wake:     make(chan struct{}, 1), claims: make(chan netip.Addr, 16),
		yielded: map[netip.Addr]bool{},
	}
	claimed := func(addr netip.Addr) {
		select {
		case a.claims <- addr:
		default: // it will be said again
		}
	}
	a.speakers = map[bool]*speaker{
		true:  {node: cfg.NodeIP, open: openARP, claimed: claimed},
		false: {node: cfg.NodeIP, open: openNDP, claimed: claimed},
	}
	return a
}

// Run announces until ctx ends.
func (a *Announcer) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("announce")
	ctx = klog.NewContext(ctx, logger)
	if err := a.watch(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	defer a.silence()
	again := time.NewTimer(0)
	defer again.Stop()
	answered := map[netip.Addr]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-again.C:
			if len(a.yielded) > 0 && a.liveNodes(ctx) != nil {
				clear(a.yielded)
			}
		case addr := <-a.claims:
			if !addr.IsValid() { // a wire has ended
				again.Reset(notOften)
				continue
			}
			if time.Since(answered[addr]) < notOften {
				continue
			}
			answered[addr] = time.Now()
			a.contest(ctx, addr)
		}
		if err := a.sync(ctx); err != nil {
			logger.Error(err, "Load balancer addresses are not all announced, will try again")
			again.Reset(lookAgain)
		} else if len(a.yielded) > 0 {
			again.Reset(lookAgain)
		}
	}
}

// silence ends all answers.
func (a *Announcer) silence() {
	for _, s := range a.speakers {
		_ = s.set(context.Background(), nil) // it only closes
		s.reading.Wait()
	}
}

// watch wakes Run when an owner may be another one. It returns when the informers are there, or ctx ends.
func (a *Announcer) watch(ctx context.Context) error {
	wake := func() {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
	var synced []cache.InformerSynced
	follow := func(informer cache.SharedIndexInformer, differs func(old, new any) bool) error {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { wake() }, DeleteFunc: func(any) { wake() },
			UpdateFunc: func(old, new any) {
				if differs(old, new) {
					wake()
				}
			},
		})
		if err == nil {
			synced = append(synced, registration.HasSynced)
			context.AfterFunc(ctx, func() { _ = informer.RemoveEventHandler(registration) }) // fails only for strangers
		}
		return err
	}
	err := errors.Join(
		follow(a.factory.Core().V1().Services().Informer(), func(old, new any) bool {
			return len(a.addresses(old.(*corev1.Service))) > 0 || len(a.addresses(new.(*corev1.Service))) > 0
		}),
		follow(a.factory.Core().V1().Nodes().Informer(), func(old, new any) bool {
			return loadbalancer.IsExcluded(old.(*corev1.Node)) != loadbalancer.IsExcluded(new.(*corev1.Node)) || loadbalancer.IsReady(old.(*corev1.Node)) != loadbalancer.IsReady(new.(*corev1.Node))
		}),
		follow(a.factory.Discovery().V1().EndpointSlices().Informer(), func(_, new any) bool {
			slice := new.(*discoveryv1.EndpointSlice)
			svc, err := a.services.Services(slice.Namespace).Get(slice.Labels[discoveryv1.LabelServiceName])
			return err == nil && len(a.addresses(svc)) > 0 && loadbalancer.IsLocal(svc)
		}),
	)
	if err != nil {
		if ctx.Err() != nil {
			return nil // the informers end with us
		}
		return fmt.Errorf("follow LoadBalancer Services: %w", err)
	}
	cache.WaitForCacheSync(ctx.Done(), synced...)
	return nil
}

// addresses are those of a Service that are for announcing.
func (a *Announcer) addresses(svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var out []netip.Addr
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if addr, err := netip.ParseAddr(in.IP); err == nil && a.cfg.Pool.Contains(addr) {
			out = append(out, addr)
		}
	}
	return out
}

// sync announces what is ours, and no more.
func (a *Announcer) sync(ctx context.Context) error {
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	mine, err := a.mine(nodes)
	if err != nil {
		return err
	}
	maps.DeleteFunc(a.yielded, func(addr netip.Addr, _ bool) bool { return !mine[addr] })
	maps.DeleteFunc(mine, func(addr netip.Addr, _ bool) bool { return a.yielded[addr] })
	var errs []error
	for ipv4, s := range a.speakers {
		of := maps.Clone(mine)
		maps.DeleteFunc(of, func(addr netip.Addr, _ bool) bool { return addr.Is4() != ipv4 })
		errs = append(errs, s.set(ctx, of))
	}
	if !maps.Equal(mine, a.current) {
		klog.FromContext(ctx).Info("Announcing load balancer addresses", "addresses", slices.SortedFunc(maps.Keys(mine), netip.Addr.Compare))
	}
	a.current = mine
	return errors.Join(errs...)
}

// mine are the addresses that this node is to announce if these are the nodes.
func (a *Announcer) mine(nodes []*corev1.Node) (map[netip.Addr]bool, error) {
	services, err := a.services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	mine := map[netip.Addr]bool{}
	for _, svc := range services {
		addresses := a.addresses(svc)
		if len(addresses) == 0 {
			continue
		}
		eligible := nodes
		if loadbalancer.IsLocal(svc) {
			if eligible, err = loadbalancer.WithEndpoints(a.slices, svc, nodes); err != nil {
				return nil, err
			}
		}
		for _, addr := range addresses {
			if owner(addr, eligible) == a.cfg.NodeName {
				mine[addr] = true
			}
		}
	}
	return mine, nil
}

// contest decides what to do when another machine says that it has one of our addresses.
func (a *Announcer) contest(ctx context.Context, addr netip.Addr) {
	if !a.current[addr] {
		return
	}
	logger := klog.FromContext(ctx)
	nodes := a.liveNodes(ctx)
	if nodes == nil {
		logger.Info("Another machine has a load balancer address of this node, and no server says otherwise: gave way", "address", addr)
		a.yielded[addr] = true
		return
	}
	mine, err := a.mine(nodes)
	if err != nil || !mine[addr] {
		return // it has been given to another node, and we will see that in a moment
	}
	logger.Info("Another machine says that it has a load balancer address of this node: said so again", "address", addr)
	if err := a.speakers[addr.Is4()].tell(addr); err != nil {
		logger.Error(err, "Announce a load balancer address again", "address", addr)
	}
}

// liveNodes are the nodes as a server knows them now; nil if none answers.
func (a *Announcer) liveNodes(ctx context.Context) []*corev1.Node {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	list, err := a.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	nodes := make([]*corev1.Node, 0, len(list.Items))
	for i := range list.Items {
		nodes = append(nodes, &list.Items[i])
	}
	return nodes
}

// owner is the node that announces an address; "" if there is none for it.
func owner(addr netip.Addr, nodes []*corev1.Node) string {
	eligible := loadbalancer.ReadyOf(slices.DeleteFunc(slices.Clone(nodes), loadbalancer.IsExcluded))
	name, best := "", []byte(nil)
	for _, n := range eligible {
		rank := sha256.Sum256([]byte(n.Name + "\x00" + addr.String()))
		if name == "" || bytes.Compare(rank[:], best) > 0 {
			name, best = n.Name, rank[:]
		}
	}
	return name
}
