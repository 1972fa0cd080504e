// SPDX-License-Identifier: Apache-2.0

// Package proxy makes Services work on one node: it writes the packet rules that lead traffic for a Service's
// addresses to its endpoints.
//
// Read in this order: this file (what changes, and when rules are written), service.go (what a Service means
// on this node, without I/O), chains.go (the rules for that, without I/O), iptables.go (writing them), nftrules.go and
// nftables.go (the same for the other mode), conntrack.go and health.go (what else belongs to a Service), metrics.go (what people ask of the proxy).
//
// Rules have the names and the meaning of upstream kube-proxy's modes iptables and nftables. Each time only chains that
// differ are written, and the work to find them is in proportion to the Services that changed. The first
// sync writes everything and removes what an earlier run left behind.
// Reference: https://kubernetes.io/docs/reference/networking/virtual-ips/
package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/network/iptables"
	"github.com/skiff-k8s/skiff/network/nfacct"
	"github.com/skiff-k8s/skiff/proxy/metrics"
)

// Config of a Proxy. All fields but NodeName have the default that is named.
type Config struct {
	NodeName      string
	Mode          Mode           // default IPTables
	ClusterCIDRs  []netip.Prefix // at most one per family; none: traffic from outside is not told from pods'
	MasqueradeAll bool           // pods behind a cluster IP see the node's address instead of the client's
	// ExternalIPs makes spec.externalIPs work. Who may write Services can then take the traffic of any
	// address over (CVE-2020-8554), so by default they are left alone.
	ExternalIPs bool
	// NodePortAddresses are the ranges in which this node's addresses take node ports. In a family of which there is none, all
	// addresses do. In mode NFTables those at loopback never do.
	NodePortAddresses []netip.Prefix
	HealthAddress     string        // of /healthz and /livez; default 0.0.0.0:10256; "none" turns it off
	MetricsAddress    string        // of /metrics and /proxyMode; default 127.0.0.1:10249; "none" turns it off
	MinSyncPeriod     time.Duration // changes wait at most this long for the next sync; default 1s
	CheckPeriod       time.Duration // how often to see whether somebody removed the rules; default 30s
}

// Mode is what enforces the rules.
type Mode string

// The modes.
const (
	IPTables Mode = "iptables"
	NFTables Mode = "nftables"
)

// fullSyncPeriod is how often rules are written anew, as upstream does it; in large clusters only when it must be.
const fullSyncPeriod = time.Hour

// backend programs one IP family. After an error only replace may be called.
type backend interface {
	// update brings the changed Services in; one without ports is gone.
	update(ctx context.Context, changed map[types.NamespacedName][]servicePort) error
	// replace makes the rules those of the given Services, whatever is there.
	replace(ctx context.Context, all map[types.NamespacedName][]servicePort, s settings) error
	// intact tells whether the rules have survived what others do.
	intact(ctx context.Context) (bool, error)
	// cleanup removes all rules.
	cleanup(ctx context.Context) error
}

var families = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}

// Proxy programs Services on one node.
type Proxy struct {
	cfg      Config
	began    time.Time
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
	nodes    corelisters.NodeLister
	synced   []cache.InformerSynced
	families map[corev1.IPFamily]*family
	health   *health

	wake chan struct{} // capacity 1: something is dirty

	metrics *metrics.Metrics

	mu        sync.Mutex
	dirty     map[types.NamespacedName]change
	waiting   metrics.Changes                          // counts dirty
	triggers  []time.Time                              // of what is dirty: when it happened that endpoints changed, as far as that is known
	sliceKeys map[types.NamespacedName]map[string]bool // names of the EndpointSlices of a Service

	// Only Run's goroutine uses these.
	here     node // of the last sync
	roomMade bool // for flows
}

// change is what is dirty of a Service.
type change struct{ service, endpoints bool }

// family is the state of one IP family; only Run's goroutine uses it.
type family struct {
	name    corev1.IPFamily
	backend backend
	other   backend // of the other mode, which may have left rules
	active  bool    // has or had a Service: until then there are no rules
	cleaned bool    // not active, and no rules of an earlier run are left
	full    bool    // the next sync must write everything
	// ports is what the backend has, by Service; for flows and health checks.
	ports map[types.NamespacedName][]servicePort
	// withoutLocal counts those that have endpoints on other nodes only, although their policy is Local.
	withoutLocal localPorts
}

// localPorts counts ports by the traffic that a policy is for.
type localPorts struct{ internal, external int }

func (l *localPorts) add(ports []servicePort, n int) {
	for i := range ports {
		c := routes(&ports[i], portChains{})
		if ports[i].some && !c.hasInternal {
			l.internal += n
		}
		if ports[i].some && !c.hasExternal {
			l.external += n
		}
	}
}

// endpoints counts the endpoints that the backend has.
func (f *family) endpoints() int {
	n := 0
	for _, ports := range f.ports {
		n += countEndpoints(ports)
	}
	return n
}

// New returns a proxy and registers its handlers on the factory, which must be started afterwards.
func New(cfg Config, client kubernetes.Interface, factory informers.SharedInformerFactory) (*Proxy, error) {
	if cfg.NodeName == "" {
		return nil, errors.New("proxy: NodeName is missing")
	}
	cfg.HealthAddress = cmp.Or(cfg.HealthAddress, "0.0.0.0:10256")
	cfg.MetricsAddress = cmp.Or(cfg.MetricsAddress, "127.0.0.1:10249")
	cfg.Mode = cmp.Or(cfg.Mode, IPTables)
	cfg.MinSyncPeriod = cmp.Or(cfg.MinSyncPeriod, time.Second)
	cfg.CheckPeriod = cmp.Or(cfg.CheckPeriod, 30*time.Second)
	p := &Proxy{
		cfg:       cfg,
		began:     time.Now(),
		services:  factory.Core().V1().Services().Lister(),
		slices:    factory.Discovery().V1().EndpointSlices().Lister(),
		nodes:     factory.Core().V1().Nodes().Lister(),
		families:  map[corev1.IPFamily]*family{},
		wake:      make(chan struct{}, 1),
		dirty:     map[types.NamespacedName]change{},
		metrics:   metrics.New(),
		sliceKeys: map[types.NamespacedName]map[string]bool{},
	}
	for _, name := range families {
		f := &family{name: name, full: true, ports: map[types.NamespacedName][]servicePort{}}
		nft := newNFTablesBackend(name)
		nft.sweepFailed = func() { p.metrics.CleanupFailed(name) }
		rules := newIPTablesBackend(iptables.New(iptables.Family(name)), settings{family: name})
		rules.counters = nfacct.Ensure
		f.backend, f.other = rules, nft
		if cfg.Mode == NFTables {
			f.backend, f.other = f.other, f.backend
		}
		p.families[name] = f
	}
	if cfg.Mode == IPTables {
		p.metrics.CountPackets("iptables_ct_state_invalid_dropped_packets_total", "packets dropped by iptables to work around conntrack problems",
			func() (uint64, error) { return nfacct.Packets(invalidCounter) })
		p.metrics.CountPackets("iptables_localhost_nodeports_accepted_packets_total", "Number of packets accepted on nodeports of loopback interface",
			func() (uint64, error) { return nfacct.Packets(localhostCounter) })
	}
	p.health = newHealth(cfg, client, p.node, p.metrics)
	return p, p.watch(factory)
}

// watch notes the keys of Services whose rules may change.
func (p *Proxy) watch(factory informers.SharedInformerFactory) error {
	add := func(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) error {
		registration, err := informer.AddEventHandler(handler)
		if err == nil {
			p.synced = append(p.synced, registration.HasSynced)
		}
		return err
	}
	service := func(obj any) {
		if svc, ok := withoutTombstone(obj).(*corev1.Service); ok {
			p.mark(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, change{service: true})
		}
	}
	slice := func(obj any, there bool) {
		if s, ok := withoutTombstone(obj).(*discoveryv1.EndpointSlice); ok {
			p.noteSlice(s, there)
		}
	}
	node := func(obj any) {
		if n, ok := withoutTombstone(obj).(*corev1.Node); ok && n.Name == p.cfg.NodeName {
			p.signal() // sync sees whether anything that matters is different
		}
	}
	return errors.Join(
		add(factory.Core().V1().Services().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: service, UpdateFunc: func(_, obj any) { service(obj) }, DeleteFunc: service,
		}),
		add(factory.Discovery().V1().EndpointSlices().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) { slice(obj, true) },
			UpdateFunc: func(old, obj any) {
				if serviceOf(old.(*discoveryv1.EndpointSlice)) != serviceOf(obj.(*discoveryv1.EndpointSlice)) {
					slice(old, false)
				}
				slice(obj, true)
			},
			DeleteFunc: func(obj any) { slice(obj, false) },
		}),
		add(factory.Core().V1().Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: node, DeleteFunc: node,
			UpdateFunc: func(old, obj any) {
				if !p.describe(old.(*corev1.Node)).equal(p.describe(obj.(*corev1.Node))) {
					node(obj) // not at each of its heartbeats
				}
			},
		}),
	)
}

func withoutTombstone(obj any) any {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return obj
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

// noteSlice notes that there is a slice for a Service, or that there is none any more. One that is marked as headless is none.
func (p *Proxy) noteSlice(slice *discoveryv1.EndpointSlice, there bool) {
	name := serviceOf(slice)
	_, headless := slice.Labels[corev1.IsHeadlessService]
	there = there && name.Name != "" && !headless
	p.mu.Lock()
	keys := p.sliceKeys[name]
	if !there && !keys[slice.Name] {
		p.mu.Unlock()
		return
	}
	switch {
	case there && keys == nil:
		p.sliceKeys[name] = map[string]bool{slice.Name: true}
		p.noteTrigger(slice)
	case there:
		keys[slice.Name] = true
		p.noteTrigger(slice)
	default:
		if delete(keys, slice.Name); len(keys) == 0 {
			delete(p.sliceKeys, name)
		}
	}
	p.mu.Unlock()
	p.mark(name, change{endpoints: true})
}

// maxTriggers bounds what is measured of a burst, and of a time in which nothing can be written.
const maxTriggers = 10000

// noteTrigger notes when it happened that endpoints changed. Of what was before this process, it is not its doing how long it took.
// The caller holds p.mu.
func (p *Proxy) noteTrigger(slice *discoveryv1.EndpointSlice) {
	at, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime])
	if err == nil && at.After(p.began) && len(p.triggers) < maxTriggers {
		p.triggers = append(p.triggers, at)
	}
}

func (p *Proxy) mark(name types.NamespacedName, c change) {
	p.mu.Lock()
	had := p.dirty[name]
	if c.service && !had.service {
		p.waiting.Services++
	}
	if c.endpoints && !had.endpoints {
		p.waiting.Endpoints++
	}
	p.dirty[name] = change{had.service || c.service, had.endpoints || c.endpoints}
	waiting := p.waiting
	p.mu.Unlock()
	if c.service {
		p.metrics.ServiceChanged(waiting)
	} else {
		p.metrics.EndpointsChanged(waiting)
	}
	p.signal()
}

func (p *Proxy) signal() {
	p.health.queued()
	for _, f := range p.families {
		p.metrics.Queued(f.name)
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run keeps the rules as the cluster wants them until ctx ends. Rules stay: connections go on without us.
func (p *Proxy) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("proxy")
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, logger))
	defer cancel()
	if p.cfg.Mode == NFTables {
		// it needs no sysctl
	} else if !p.cfg.takesNodePorts(netip.AddrFrom4([4]byte{127, 0, 0, 1})) {
		logger.V(2).Info("Node ports do not work at 127.0.0.1: it is not among the node port addresses")
	} else if err := setRouteLocalnet(); err != nil {
		logger.Info("Node ports will not work at 127.0.0.1: a sysctl cannot be set", "err", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.health.serve(ctx) })
	wg.Go(func() { p.serveMetrics(ctx) })
	defer p.health.close()
	if !cache.WaitForCacheSync(ctx.Done(), p.synced...) {
		return nil
	}
	for _, f := range p.families {
		if err := f.other.cleanup(ctx); err != nil {
			logger.V(2).Info("Left rules of the other mode", "family", f.name, "err", err) // e.g. no IPv6 in the kernel
		}
	}
	if p.cfg.Mode == NFTables {
		removeCounters(ctx)
	}
	p.loop(ctx)
	return nil
}

// pacer spaces syncs: by ten times what they take, but not by more than longest. A quiet time saves two of the longest pauses
// up: what one change brings, a Service and then its endpoints, is written at once.
type pacer struct {
	longest time.Duration

	debt time.Duration // of time without a sync
	last time.Time     // when that was so
}

// pause is how long to wait after a sync that has just ended.
func (p *pacer) pause(now time.Time, took time.Duration) time.Duration {
	paid := max(0, p.debt-now.Add(-took).Sub(p.last))
	p.debt, p.last = paid+min(10*took, p.longest), now
	return max(0, p.debt-2*p.longest)
}

// loop syncs when something changed, as often as pacer lets it; changes never wait longer than MinSyncPeriod.
func (p *Proxy) loop(ctx context.Context) {
	logger := klog.FromContext(ctx)
	check := time.NewTicker(p.cfg.CheckPeriod)
	defer check.Stop()
	fullSync := time.NewTicker(fullSyncPeriod)
	defer fullSync.Stop()
	retry := time.NewTimer(0) // the first sync
	defer retry.Stop()
	failures := 0
	pace := pacer{longest: p.cfg.MinSyncPeriod}
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-retry.C:
		case <-fullSync.C:
			for _, f := range p.families {
				f.full = f.full || f.endpoints() <= largeCluster
			}
		case <-check.C:
			if p.allIntact(ctx) {
				continue
			}
			logger.Info("Rules were removed by somebody: writing them again")
		}
		start := time.Now()
		err := p.sync(ctx)
		took := time.Since(start)
		if ctx.Err() != nil {
			return
		}
		pause := pace.pause(time.Now(), took)
		if err != nil {
			failures++
			pause = min(p.cfg.MinSyncPeriod<<min(failures-1, 5), 30*time.Second)
			logger.Error(err, "Sync failed", "retryIn", pause)
			retry.Reset(pause)
		} else {
			failures = 0
			logger.V(4).Info("Synced", "elapsed", took)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (p *Proxy) writeAllNext() {
	for _, f := range p.families {
		f.full = true
	}
}

func (p *Proxy) allIntact(ctx context.Context) bool {
	intact := true
	for _, f := range p.families {
		if !f.active || f.full {
			continue
		}
		ok, err := f.backend.intact(ctx)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Check whether rules are there", "family", f.name)
			continue // as likely a busy lock as anything else
		}
		f.full = !ok
		intact = intact && ok
	}
	return intact
}

// sync brings all changes so far into the kernel.
func (p *Proxy) sync(ctx context.Context) error {
	here := p.describe(p.node())
	here.nodePortIPs = p.cfg.nodePortIPs()
	if !here.equal(p.here) {
		p.here = here
		p.writeAllNext()
	}
	p.mu.Lock()
	dirty, triggers := p.dirty, p.triggers
	p.dirty, p.triggers, p.waiting = map[types.NamespacedName]change{}, nil, metrics.Changes{}
	p.mu.Unlock()
	p.metrics.Waiting(metrics.Changes{})

	var errs []error
	for _, name := range families {
		f := p.families[name]
		if err := p.syncFamily(ctx, f, dirty, triggers); err != nil {
			f.full = true
			errs = append(errs, fmt.Errorf("write %s rules: %w", name, err))
			continue
		}
		p.health.updated(name)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	p.cleanUnused(ctx)
	p.makeRoomOnce(ctx)
	p.health.syncServices(ctx, p.healthChecks(), p.healthAddresses())
	return nil
}

func (p *Proxy) syncFamily(ctx context.Context, f *family, dirty map[types.NamespacedName]change, triggers []time.Time) error {
	if !f.active && !p.needed(f, dirty) {
		return nil // a cluster without this family costs nothing
	}
	if f.active && !f.full && len(dirty) == 0 {
		return nil
	}
	f.active = true
	began, full := time.Now(), f.full
	changed := map[types.NamespacedName][]servicePort{}
	if f.full {
		all, err := p.services.List(labels.Everything())
		if err != nil {
			return err
		}
		for _, svc := range all {
			p.put(changed, f.name, svc)
		}
	} else {
		for name := range dirty {
			changed[name] = nil
			if svc, err := p.services.Services(name.Namespace).Get(name.Name); err == nil {
				p.put(changed, f.name, svc)
			}
		}
	}
	stale := staleFlows(f.ports, changed, f.full)
	var err error
	if f.full {
		err = f.backend.replace(ctx, changed, p.settings(f.name))
	} else {
		err = f.backend.update(ctx, changed)
	}
	if err != nil {
		p.metrics.Failed(f.name, string(p.cfg.Mode), full, time.Since(began))
		return err
	}
	if b, ok := f.backend.(*iptablesBackend); ok {
		for _, table := range []iptables.Table{iptables.Filter, iptables.NAT} {
			p.metrics.Rules(f.name, string(table), *b.rules.in(table), *b.wrote.in(table))
		}
	}
	p.metrics.Synced(f.name, full, time.Since(began), triggers)
	if f.full {
		f.full, f.ports, f.withoutLocal = false, map[types.NamespacedName][]servicePort{}, localPorts{}
	}
	for name, ports := range changed {
		f.withoutLocal.add(f.ports[name], -1)
		f.withoutLocal.add(ports, 1)
		if len(ports) == 0 {
			delete(f.ports, name)
		} else {
			f.ports[name] = ports
		}
	}
	p.metrics.NoLocalEndpoints(f.name, f.withoutLocal.internal, f.withoutLocal.external)
	began = time.Now()
	cleared, err := clearFlows(f.name, stale)
	p.metrics.FlowsCleared(f.name, time.Since(began), cleared)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Clear stale UDP flows") // they time out
	}
	return nil
}

// makeRoomOnce does so when there are rules, with which the kernel has begun to remember flows.
func (p *Proxy) makeRoomOnce(ctx context.Context) {
	if p.roomMade || !p.families[corev1.IPv4Protocol].active && !p.families[corev1.IPv6Protocol].active {
		return
	}
	p.roomMade = true
	if err := makeRoom(runtime.NumCPU()); err != nil {
		klog.FromContext(ctx).V(2).Info("Left the kernel's limits of flows as they are", "err", err)
	}
}

// cleanUnused removes, once, what an earlier run left in a family that has no Service now.
func (p *Proxy) cleanUnused(ctx context.Context) {
	for _, f := range p.families {
		if f.active || f.cleaned {
			continue
		}
		f.cleaned = true
		if err := f.backend.cleanup(ctx); err != nil {
			klog.FromContext(ctx).V(2).Info("Left rules of a family that is not in use", "family", f.name, "err", err) // e.g. no IPv6 in the kernel
		}
	}
}

// needed tells whether any of the Services has the family.
func (p *Proxy) needed(f *family, dirty map[types.NamespacedName]change) bool {
	for name := range dirty {
		svc, err := p.services.Services(name.Namespace).Get(name.Name)
		if err == nil && clusterIPOf(svc, f.name).IsValid() {
			return true
		}
	}
	return false
}

// put works out a Service and adds it if there is anything to do.
func (p *Proxy) put(to map[types.NamespacedName][]servicePort, family corev1.IPFamily, svc *corev1.Service) {
	name := types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
	if !p.cfg.ExternalIPs && len(svc.Spec.ExternalIPs) > 0 {
		without := *svc
		without.Spec.ExternalIPs = nil
		svc = &without
	}
	if ports := servicePorts(svc, p.slicesOf(name), p.here, family); len(ports) > 0 {
		to[name] = ports
	}
}

func (p *Proxy) slicesOf(name types.NamespacedName) []*discoveryv1.EndpointSlice {
	p.mu.Lock()
	keys := make([]string, 0, len(p.sliceKeys[name]))
	for key := range p.sliceKeys[name] {
		keys = append(keys, key)
	}
	p.mu.Unlock()
	slices.Sort(keys)
	list := make([]*discoveryv1.EndpointSlice, 0, len(keys))
	for _, key := range keys {
		if slice, err := p.slices.EndpointSlices(name.Namespace).Get(key); err == nil {
			list = append(list, slice)
		}
	}
	return list
}

func (p *Proxy) settings(family corev1.IPFamily) settings {
	s := settings{
		family:             family,
		masqueradeAll:      p.cfg.MasqueradeAll,
		dropInvalid:        !conntrackIsLiberal(),
		localhostNodePorts: family == corev1.IPv4Protocol && p.cfg.takesNodePorts(netip.AddrFrom4([4]byte{127, 0, 0, 1})),
	}
	s.nodePortIPs, s.allNodePortIPs = p.nodePortAddresses(family)
	for _, cidr := range p.cfg.ClusterCIDRs {
		if isFamily(cidr.Addr(), family) {
			s.clusterCIDR = cidr
		}
	}
	for _, ip := range p.here.ips {
		if isFamily(ip, family) {
			s.nodeIPs = append(s.nodeIPs, ip)
		}
	}
	return s
}

// nodePortAddresses returns the addresses of a family that take node ports, unless all of them do.
func (p *Proxy) nodePortAddresses(family corev1.IPFamily) (ips []netip.Addr, all bool) {
	if len(p.cfg.nodePortRanges(family)) == 0 {
		return nil, true
	}
	for _, ip := range p.here.nodePortIPs {
		if isFamily(ip, family) {
			ips = append(ips, ip)
		}
	}
	return ips, false
}

// node returns this node's object, or nil.
func (p *Proxy) node() *corev1.Node {
	n, err := p.nodes.Get(p.cfg.NodeName)
	if err != nil {
		return nil
	}
	return n
}

// describe returns what matters of this node's object, which may be nil.
func (p *Proxy) describe(n *corev1.Node) node {
	here := node{name: p.cfg.NodeName}
	if n == nil {
		return here
	}
	here.zone = n.Labels[corev1.LabelTopologyZone]
	for _, address := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(address.Address); err == nil && address.Type == corev1.NodeInternalIP {
			here.ips = append(here.ips, ip.Unmap())
		}
	}
	return here
}

// has tells whether the node says that it has an address of a family.
func (n *node) has(family corev1.IPFamily) bool {
	return slices.ContainsFunc(n.ips, func(ip netip.Addr) bool { return isFamily(ip, family) })
}

// nodePortRanges are those of a family in which addresses take node ports; none if all do.
func (c *Config) nodePortRanges(family corev1.IPFamily) []netip.Prefix {
	var ranges []netip.Prefix
	for _, prefix := range c.NodePortAddresses {
		if !isFamily(prefix.Addr(), family) {
			continue
		}
		if prefix.Bits() == 0 {
			return nil
		}
		ranges = append(ranges, prefix)
	}
	return ranges
}

// takesNodePorts tells whether node ports are open at an address of this node.
func (c *Config) takesNodePorts(ip netip.Addr) bool {
	family := corev1.IPv6Protocol
	if ip.Is4() {
		family = corev1.IPv4Protocol
	}
	ranges := c.nodePortRanges(family)
	return len(ranges) == 0 || slices.ContainsFunc(ranges, func(prefix netip.Prefix) bool { return prefix.Contains(ip) })
}

// nodePortIPs returns the addresses of this node that take node ports; none if all do in both families.
func (c *Config) nodePortIPs() []netip.Addr {
	if len(c.nodePortRanges(corev1.IPv4Protocol)) == 0 && len(c.nodePortRanges(corev1.IPv6Protocol)) == 0 {
		return nil
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // cannot happen but in a process that may open no socket
	}
	var ips []netip.Addr
	for _, addr := range addrs {
		prefix, err := netip.ParsePrefix(addr.String())
		if ip := prefix.Addr().Unmap(); err == nil && c.takesNodePorts(ip) && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return ips
}

// healthChecks returns those that Services ask for.
func (p *Proxy) healthChecks() map[types.NamespacedName]healthCheck {
	checks := map[types.NamespacedName]healthCheck{}
	for _, f := range p.families {
		for name, ports := range f.ports {
			if ports[0].healthCheckNodePort == 0 {
				continue
			}
			here := map[netip.Addr]bool{} // a pod behind several ports is one endpoint
			for i := range ports {
				for _, ip := range ports[i].readyHere {
					here[ip] = true
				}
			}
			checks[name] = healthCheck{ports[0].healthCheckNodePort, max(len(here), checks[name].endpoints)}
		}
	}
	return checks
}

// healthAddresses returns where health checks of Services are answered: at the addresses that take node ports, of both families:
// who asks does not know which a Service has.
func (p *Proxy) healthAddresses() []netip.Addr {
	var at []netip.Addr
	for _, name := range families {
		ips, all := p.nodePortAddresses(name)
		switch {
		case !all:
			at = append(at, ips...)
		case !p.families[name].active && !p.here.has(name): // nor may the machine have it
		case name == corev1.IPv4Protocol:
			at = append(at, netip.IPv4Unspecified())
		default:
			at = append(at, netip.IPv6Unspecified())
		}
	}
	return at
}

// Cleanup removes all rules. It may be called without Run.
func (p *Proxy) Cleanup(ctx context.Context) error {
	var errs []error
	for _, name := range families {
		f := p.families[name]
		if err := errors.Join(f.backend.cleanup(ctx), f.other.cleanup(ctx)); err != nil && name == corev1.IPv4Protocol {
			errs = append(errs, fmt.Errorf("remove %s rules: %w", name, err)) // machines without IPv6 have none
		}
	}
	removeCounters(ctx)
	return errors.Join(errs...)
}
