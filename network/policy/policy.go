// SPDX-License-Identifier: Apache-2.0

// Package policy enforces NetworkPolicies on the pods of one node.
//
// Read in this order: this file (what changes, and when rules are written), compile.go (what policies mean for the pods
// of this node, without I/O), block.go (ipBlocks), kernel.go (writing it to nftables).
//
// The pod network tells which pods are attached to the node, before their interface is up: so a pod is never without its
// policies, and an address that is used again has none of the pod before. A pod whose labels the API has not told yet
// is closed as long as its namespace has any policy.
//
// What the specification leaves open: a node's own traffic to its pods is always allowed (probes). Pods in the host
// network are neither isolated nor selected as peers, since they have the node's address. The cluster's DNS, which
// is no pod here, counts as one in kube-system with the label k8s-app=kube-dns, so that the usual policies let it
// through. Connections that exist when a policy changes follow it with their next packet.
//
// Until the first NetworkPolicy exists nothing but them is watched and the kernel has no rule of ours.
// Reference: https://kubernetes.io/docs/concepts/services-networking/network-policies/
package policy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	checkPeriod   = 30 * time.Second // default of Config.CheckPeriod
	maxPause      = time.Second      // changes wait at most this long for the next sync
	maxRetryDelay = 30 * time.Second
	syncPatience  = 5 * time.Second // how long a new pod waits for the API to tell the policies
)

var families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// Config of an Enforcer. Its zero value is good.
type Config struct {
	CheckPeriod time.Duration // how soon rules that somebody removed come back; default 30s
}

// Pod names a pod that is attached to the node.
type Pod struct{ Namespace, Name, UID string }

// is tells whether p, of the API, is the pod that was attached. Their UIDs differ for a static pod.
func (p *pod) is(attached Pod) bool {
	return attached.UID == "" || p.UID == "" || p.UID == attached.UID
}

// Enforcer enforces policies on this node.
type Enforcer struct {
	cfg      Config
	factory  informers.SharedInformerFactory
	policies networkinglisters.NetworkPolicyLister
	synced   cache.InformerSynced
	wake     chan struct{} // capacity 1: something changed
	stopped  chan struct{} // closed when Run ends

	mu     sync.Mutex // one writer at a time, in the order of its decisions
	here   map[netip.Addr]Pod
	tables map[corev1.IPFamily]*table
	peers  *peerListers // nil until there was a policy
}

// peerListers list what policies select.
type peerListers struct {
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	slices     discoverylisters.EndpointSliceLister
	synced     []cache.InformerSynced
}

// New returns an enforcer and registers its handlers on the factory, which must be started afterwards.
func New(cfg Config, factory informers.SharedInformerFactory) (*Enforcer, error) {
	cfg.CheckPeriod = cmp.Or(cfg.CheckPeriod, checkPeriod)
	e := &Enforcer{
		cfg: cfg, factory: factory, wake: make(chan struct{}, 1), stopped: make(chan struct{}), here: map[netip.Addr]Pod{},
		tables: map[corev1.IPFamily]*table{},
	}
	for _, family := range families {
		e.tables[family] = &table{family: family}
	}
	policies := factory.Networking().V1().NetworkPolicies()
	e.policies = policies.Lister()
	registration, err := policies.Informer().AddEventHandler(e.onChange(func(old, now any) bool {
		return equality.Semantic.DeepEqual(old.(*networkingv1.NetworkPolicy).Spec, now.(*networkingv1.NetworkPolicy).Spec)
	}))
	if err != nil {
		return nil, fmt.Errorf("watch NetworkPolicies: %w", err)
	}
	e.synced = registration.HasSynced
	return e, nil
}

// onChange handles events: all but updates that change nothing of interest.
func (e *Enforcer) onChange(same func(old, now any) bool) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { e.signal() },
		DeleteFunc: func(any) { e.signal() },
		UpdateFunc: func(old, now any) {
			if !same(old, now) {
				e.signal()
			}
		},
	}
}

func (e *Enforcer) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Adopt tells of a pod that is attached since an earlier run. Its rules are those of that run until the first sync.
func (e *Enforcer) Adopt(p Pod, addrs []netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, addr := range addrs {
		e.here[addr] = p
	}
}

// Add puts a pod's policies in force. It must return before the pod can send anything.
func (e *Enforcer) Add(ctx context.Context, p Pod, addrs []netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), e.synced) {
		return errors.New("the API has not told the NetworkPolicies yet")
	}
	e.Adopt(p, addrs)
	err := e.sync(ctx)
	if err != nil {
		e.forget(addrs)
	}
	return err
}

// Remove tells that nobody has the addresses any more.
func (e *Enforcer) Remove(ctx context.Context, addrs []netip.Addr) error {
	e.forget(addrs)
	if !e.synced() {
		return nil // the first sync will remove their rules
	}
	return e.sync(ctx)
}

func (e *Enforcer) forget(addrs []netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, addr := range addrs {
		delete(e.here, addr)
	}
}

// Run keeps the rules as the policies want them until ctx ends. Rules stay: pods go on without us.
func (e *Enforcer) Run(ctx context.Context) error {
	defer close(e.stopped)
	logger := klog.FromContext(ctx).WithName("policy")
	ctx = klog.NewContext(ctx, logger)
	if !cache.WaitForCacheSync(ctx.Done(), e.synced) {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	delay := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-timer.C:
			e.check(ctx)
		}
		start := time.Now()
		pause := time.Duration(0)
		if err := e.sync(ctx); err != nil && ctx.Err() == nil {
			delay = min(max(2*delay, time.Second), maxRetryDelay)
			logger.Error(err, "Enforce NetworkPolicies", "retryIn", delay)
			timer.Reset(delay)
			pause = delay / 2
		} else {
			delay, pause = 0, min(10*time.Since(start), maxPause)
			if e.active() {
				timer.Reset(e.cfg.CheckPeriod)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// active tells whether there are rules to look after.
func (e *Enforcer) active() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tables {
		if t.have != nil {
			return true
		}
	}
	return false
}

// check notes whether somebody else changed the rules, so that the next sync writes them all.
func (e *Enforcer) check(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.tables {
		if !t.intact() {
			klog.FromContext(ctx).Info("Policy rules were removed by somebody: writing them again", "family", t.family)
			t.have = nil
		}
	}
}

// sync writes what differs from what the policies want.
func (e *Enforcer) sync(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	policies, err := e.policies.List(labels.Everything())
	if err != nil {
		return err
	}
	w := &world{policies: policies, here: e.here}
	if len(policies) > 0 {
		if err := e.gather(ctx, w); err != nil {
			return err
		}
	}
	slices.SortFunc(policies, func(a, b *networkingv1.NetworkPolicy) int { // so that rules have an order
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	var errs []error
	for family, t := range e.tables {
		errs = append(errs, t.apply(compile(w, family)))
	}
	return errors.Join(errs...)
}

// gather completes the world with pods and namespaces, which it starts to watch when it is called first.
func (e *Enforcer) gather(ctx context.Context, w *world) error {
	if e.peers == nil {
		if err := e.watchPeers(); err != nil {
			return err
		}
	}
	if !cache.WaitForCacheSync(ctx.Done(), e.peers.synced...) {
		return errors.New("the API has not told the pods yet")
	}
	namespaces, err := e.peers.namespaces.List(labels.Everything())
	if err != nil {
		return err
	}
	w.namespaces = map[string]labels.Set{}
	for _, ns := range namespaces {
		w.namespaces[ns.Name] = ns.Labels
	}
	pods, err := e.peers.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	attached := map[Pod][]netip.Addr{}
	for addr, p := range e.here {
		p.UID = ""
		attached[p] = append(attached[p], addr)
	}
	for _, obj := range pods {
		if p, ok := describe(obj); ok {
			// the API learns addresses only after the pod has started
			p.addrs = append(p.addrs, attached[Pod{Namespace: p.Namespace, Name: p.Name}]...)
			w.pods = append(w.pods, p)
		}
	}
	dns, err := e.clusterDNS()
	w.pods = append(w.pods, dns)
	return err
}

func (e *Enforcer) watchPeers() error {
	peers := &peerListers{}
	add := func(informer cache.SharedIndexInformer, same func(old, now any) bool) error {
		registration, err := informer.AddEventHandler(e.onChange(same))
		if err == nil {
			peers.synced = append(peers.synced, registration.HasSynced)
		}
		return err
	}
	pods, namespaces, endpoints := e.factory.Core().V1().Pods(), e.factory.Core().V1().Namespaces(), e.factory.Discovery().V1().EndpointSlices()
	peers.pods, peers.namespaces, peers.slices = pods.Lister(), namespaces.Lister(), endpoints.Lister()
	err := errors.Join(
		add(pods.Informer(), func(old, now any) bool {
			a, aCounts := describe(old.(*corev1.Pod))
			b, bCounts := describe(now.(*corev1.Pod))
			return aCounts == bCounts && a.UID == b.UID && maps.Equal(a.labels, b.labels) && slices.Equal(a.addrs, b.addrs)
		}),
		add(namespaces.Informer(), func(old, now any) bool {
			return maps.Equal(old.(*corev1.Namespace).Labels, now.(*corev1.Namespace).Labels)
		}),
		add(endpoints.Informer(), func(_, now any) bool { return !isClusterDNS(now.(*discoveryv1.EndpointSlice)) }),
	)
	if err != nil {
		return fmt.Errorf("watch the peers of NetworkPolicies: %w", err)
	}
	e.peers = peers
	e.factory.Start(e.stopped) // some may be running already
	return nil
}

// describe returns a pod as policies see it, or false for one that has no address of its own.
func describe(obj *corev1.Pod) (pod, bool) {
	if obj.Spec.HostNetwork || obj.Status.Phase == corev1.PodSucceeded || obj.Status.Phase == corev1.PodFailed {
		return pod{}, false
	}
	p := pod{Pod: Pod{Namespace: obj.Namespace, Name: obj.Name, UID: string(obj.UID)}, labels: obj.Labels}
	if _, mirror := obj.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		p.UID = ""
	}
	for _, ip := range obj.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			p.addrs = append(p.addrs, addr.Unmap())
		}
	}
	for _, containers := range [][]corev1.Container{obj.Spec.InitContainers, obj.Spec.Containers} {
		for i := range containers {
			p.ports = append(p.ports, containers[i].Ports...)
		}
	}
	return p, true
}

const (
	dnsService = "kube-dns"
	dnsPort    = 53
)

func isClusterDNS(slice *discoveryv1.EndpointSlice) bool {
	return slice.Namespace == metav1.NamespaceSystem && slice.Labels[discoveryv1.LabelServiceName] == dnsService
}

// clusterDNS returns the pod that the nodes' DNS servers stand for.
func (e *Enforcer) clusterDNS() (pod, error) {
	dns := pod{
		Pod:    Pod{Namespace: metav1.NamespaceSystem, Name: dnsService},
		labels: labels.Set{"k8s-app": dnsService},
		ports: []corev1.ContainerPort{
			{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: dnsPort},
			{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, ContainerPort: dnsPort},
		},
	}
	list, err := e.peers.slices.EndpointSlices(metav1.NamespaceSystem).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: dnsService}))
	for _, slice := range list {
		for _, endpoint := range slice.Endpoints {
			for _, address := range endpoint.Addresses {
				if addr, err := netip.ParseAddr(address); err == nil && endpoint.TargetRef == nil {
					dns.addrs = append(dns.addrs, addr)
				}
			}
		}
	}
	return dns, err
}

// Cleanup removes what an Enforcer that runs no more has left.
func Cleanup() error {
	var errs []error
	for _, family := range families {
		t := &table{family: family}
		errs = append(errs, t.remove())
	}
	return errors.Join(errs...)
}
