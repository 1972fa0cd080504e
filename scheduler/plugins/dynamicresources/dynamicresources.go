// SPDX-License-Identifier: Apache-2.0

// Package dynamicresources finds devices for the ResourceClaims of pods, by the structured parameters that their drivers
// publish in ResourceSlices. A claim that has its devices limits the nodes; for one that has none, devices are looked for on
// each node, promised in Reserve and written into the claim in PreBind, with the pod as who it is reserved for.
//
// What fits is decided by k8s.io/dynamic-resource-allocation. pending.go keeps what is promised and not yet in the API, inventory.go counts
// devices for the plugins that rate nodes by what is in use, taints.go applies DeviceTaintRules, extended.go makes claims for extended resources that DeviceClasses offer, ready.go waits for
// devices that have to be made ready, hints.go says what a rejected pod waits for. A pod without claims costs one comparison, and no
// informer runs before the first with a claim.
//
// Reference: https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/
package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/klog/v2"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Name of the plugin in a configuration.
const Name = "DynamicResources"

// Args configures the plugin; the zero value is the default.
type Args struct {
	// FilterTimeout is how long devices are looked for on one node; 10 s if zero.
	FilterTimeout time.Duration
	// BindingTimeout is how long devices may take until they are ready; 10 min if zero.
	BindingTimeout time.Duration
}

// features are those of the allocator that are GA, or beta and on.
var features = structured.Features{
	AdminAccess: true, PrioritizedList: true, DeviceTaints: true, PartitionableDevices: true, ConsumableCapacity: true,
	DeviceBindingAndStatus: true, FractionalCapacityRange: true,
}

type plugin struct {
	Args
	handle  *framework.Handle
	pending *pending
	cel     *cel.Cache
}

// New returns a constructor of the plugin. All profiles share what is promised.
func New(args Args) func(*framework.Handle) (framework.Plugin, error) {
	if args.FilterTimeout == 0 {
		args.FilterTimeout = 10 * time.Second
	}
	if args.BindingTimeout == 0 {
		args.BindingTimeout = 10 * time.Minute
	}
	return func(h *framework.Handle) (framework.Plugin, error) {
		return &plugin{
			Args:    args,
			handle:  h,
			pending: pendingOf(h),
			cel:     newCache(),
		}, nil
	}
}

func (*plugin) Name() string { return Name }

// state is what is known of the pod's claims.
type state struct {
	ctx       context.Context
	claims    []*claim
	extended  *extended            // nil if the pod requests no extended resources that are devices
	allocator structured.Allocator // nil if all claims have their devices

	mu          sync.Mutex
	found       map[string]*offer // guarded by mu: by node
	unavailable sets.Set[int]     // guarded by mu: positions of claims whose devices are of no use on some node
}

// offer is what a node has for the pod.
type offer struct {
	devices  []resourcev1.AllocationResult // for the claims without devices, in order, and then for extended
	extended *claim                        // nil if the node has them by itself
}

// claim is one of the pod's.
type claim struct {
	*resourcev1.ResourceClaim
	nodes *nodeaffinity.NodeSelector // that can reach its devices; nil for all, or if it has none yet
	// promised by Reserve and not yet written.
	promised *resourcev1.AllocationResult
	reserved bool // for the pod, by this cycle
	// mappings, of the claim for extended resources, say which request is for what.
	mappings []v1.ContainerExtendedResourceRequest
}

func (s *state) unallocated() []*claim {
	var without []*claim
	for _, c := range s.claims {
		if c.Status.Allocation == nil {
			without = append(without, c)
		}
	}
	return without
}

// PreEnqueue holds a pod back until its claims have been made from their templates.
func (*plugin) PreEnqueue(pod *v1.Pod) *framework.Status {
	for i := range pod.Spec.ResourceClaims {
		if _, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err != nil {
			return framework.RejectForGood(err.Error())
		}
	}
	return nil
}

func (p *plugin) PreFilter(ctx context.Context, pod *framework.PodInfo, _ *framework.Snapshot) (framework.State, sets.Set[string], *framework.Status) {
	extended, err := p.extendedOf(ctx, pod)
	if err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	if len(pod.Pod.Spec.ResourceClaims) == 0 && extended == nil {
		return nil, nil, framework.SkipStatus
	}
	if err := p.needClaims(ctx); err != nil {
		return nil, nil, framework.AsStatus(err)
	}
	s := &state{ctx: ctx, extended: extended, found: make(map[string]*offer), unavailable: sets.New[int]()}
	claims, err := p.claimsOf(pod.Pod)
	if err != nil {
		return nil, nil, framework.RejectForGood(err.Error())
	}
	if len(claims) == 0 && extended == nil {
		return nil, nil, framework.SkipStatus
	}
	for _, c := range claims {
		one, status := p.look(pod.Pod, c)
		if status != nil {
			return nil, nil, status
		}
		s.claims = append(s.claims, one)
	}
	if len(s.unallocated()) > 0 || extended != nil {
		if s.allocator, err = p.newAllocator(ctx); err != nil {
			return nil, nil, framework.AsStatus(err)
		}
	}
	return s, nil, nil
}

func (p *plugin) needClaims(ctx context.Context) error {
	return p.handle.Need(ctx, framework.ResourceClaim, framework.ResourceSlice, framework.DeviceClass, framework.DeviceTaintRule)
}

func (p *plugin) claims() resourcelisters.ResourceClaimLister {
	return p.handle.Informers.Resource().V1().ResourceClaims().Lister()
}

// claimsOf reads the pod's claims. Its errors are for who made the pod.
func (p *plugin) claimsOf(pod *v1.Pod) ([]*resourcev1.ResourceClaim, error) {
	var claims []*resourcev1.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		name, generated, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // whoever looks after its template says that it needs none
		}
		c, err := p.claims().ResourceClaims(pod.Namespace).Get(*name)
		if err != nil {
			return nil, err
		}
		if c.DeletionTimestamp != nil {
			return nil, fmt.Errorf("resourceclaim %q is being deleted", c.Name)
		}
		if generated {
			if err := resourceclaim.IsForPod(pod, c, false); err != nil {
				return nil, err
			}
		}
		claims = append(claims, c)
	}
	return claims, nil
}

// look says what the pod can expect of a claim.
func (p *plugin) look(pod *v1.Pod, c *resourcev1.ResourceClaim) (*claim, *framework.Status) {
	one := &claim{ResourceClaim: c}
	if c.Status.Allocation == nil {
		if p.pending.has(c) {
			return nil, framework.RejectForGood(fmt.Sprintf("resource claim %s/%s is in the process of being allocated", c.Namespace, c.Name))
		}
		return one, p.classesExist(c)
	}
	if !resourceclaim.CanBeReserved(c) && !resourceclaim.IsReservedForPod(pod, c, false) {
		return nil, framework.RejectForGood("resourceclaim in use")
	}
	if selector := c.Status.Allocation.NodeSelector; selector != nil {
		nodes, err := nodeaffinity.NewNodeSelector(selector)
		if err != nil {
			return nil, framework.AsStatus(err)
		}
		one.nodes = nodes
	}
	return one, nil
}

// classesExist tells early what no node could mend.
func (p *plugin) classesExist(c *resourcev1.ResourceClaim) *framework.Status {
	check := func(request, class string) *framework.Status {
		_, err := p.handle.Informers.Resource().V1().DeviceClasses().Lister().Get(class)
		if apierrors.IsNotFound(err) {
			return framework.RejectForGood(fmt.Sprintf("request %s: device class %s does not exist", request, class))
		}
		return framework.AsStatus(err)
	}
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		switch {
		case r.Exactly != nil:
			if status := check(r.Name, r.Exactly.DeviceClassName); status != nil {
				return status
			}
		case len(r.FirstAvailable) > 0:
			for _, sub := range r.FirstAvailable {
				if status := check(resourceclaim.CreateSubRequestRef(r.Name, sub.Name), sub.DeviceClassName); status != nil {
					return status
				}
			}
		default:
			return framework.RejectForGood(fmt.Sprintf("resource claim %s/%s, request %s: unknown request type", c.Namespace, c.Name, r.Name))
		}
	}
	return nil
}

// newAllocator takes stock of all devices and of those in use.
func (p *plugin) newAllocator(ctx context.Context) (structured.Allocator, error) {
	resources := p.handle.Informers.Resource().V1()
	claims, err := resources.ResourceClaims().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	all, err := resources.ResourceSlices().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	rules, err := resources.DeviceTaintRules().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return structured.NewAllocator(ctx, features, p.pending.inUse(claims), classes{resources.DeviceClasses().Lister()}, withRules(all, rules), p.cel)
}

// classes is a lister as the allocator wants it.
type classes struct {
	resourcelisters.DeviceClassLister
}

func (c classes) List() ([]*resourcev1.DeviceClass, error) {
	return c.DeviceClassLister.List(labels.Everything())
}

func (p *plugin) Filter(st framework.State, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := st.(*state)
	usable := true
	for i, c := range s.claims {
		if c.nodes != nil && !c.nodes.Match(node.Node) || p.failedToBind(c.ResourceClaim) {
			usable = false
			s.mu.Lock()
			s.unavailable.Insert(i)
			s.mu.Unlock()
		}
	}
	if !usable {
		return framework.RejectForGood("resourceclaim not available on the node")
	}
	if s.allocator == nil {
		return nil
	}
	var wanted []*resourcev1.ResourceClaim
	for _, c := range s.unallocated() {
		wanted = append(wanted, c.ResourceClaim)
	}
	var has offer
	if s.extended != nil {
		if s.extended.stale != nil {
			return framework.Reject("cannot schedule extended resource claim")
		}
		if c, mappings := s.extended.claimOn(pod.Pod, node); c != nil {
			has.extended = &claim{ResourceClaim: c, mappings: mappings}
			wanted = append(wanted, c)
		}
	}
	if len(wanted) > 0 {
		var status *framework.Status
		if has.devices, status = p.allocate(s, node.Node, wanted); status != nil {
			return status
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found[node.Node.Name] = &has
	return nil
}

func (p *plugin) allocate(s *state, node *v1.Node, wanted []*resourcev1.ResourceClaim) ([]resourcev1.AllocationResult, *framework.Status) {
	ctx, cancel := context.WithTimeout(s.ctx, p.FilterTimeout)
	defer cancel()
	found, err := s.allocator.Allocate(ctx, node, wanted)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, framework.AsStatus(fmt.Errorf("node %s: timed out trying to allocate devices", node.Name))
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, framework.RejectForGood(err.Error())
	case err != nil: // the claim or its class is wrong
		return nil, framework.AsStatus(err)
	case len(found) != len(wanted):
		return nil, framework.RejectForGood("cannot allocate all claims")
	}
	return found, nil
}

// PostFilter gives the devices of a claim back that is only in this pod's way: allocated, of no use on some node, and used by nobody else.
func (p *plugin) PostFilter(ctx context.Context, cycle *framework.Cycle, _ *framework.Diagnosis) (*framework.Nomination, *framework.Status) {
	s, ok := cycle.State(p).(*state)
	if !ok {
		return nil, framework.Reject()
	}
	for _, i := range sets.List(s.unavailable) {
		c := s.claims[i]
		if len(c.Status.ReservedFor) > 1 || len(c.Status.ReservedFor) == 1 && !resourceclaim.IsReservedForPod(cycle.Pod.Pod, c.ResourceClaim, false) {
			continue
		}
		if err := p.deallocate(ctx, c.ResourceClaim); err != nil {
			return nil, framework.AsStatus(err)
		}
		return nil, framework.Reject("deallocation of ResourceClaim completed")
	}
	if s.extended != nil && s.extended.stale != nil {
		if err := p.remove(ctx, s.extended.stale); err != nil {
			return nil, framework.AsStatus(err)
		}
		return nil, framework.Reject("deletion of ResourceClaim completed")
	}
	return nil, framework.Reject()
}

// Score prefers nodes where the alternatives of a claim that were named first are to be had.
func (p *plugin) Score(st framework.State, _ *framework.PodInfo, node *framework.NodeInfo) int64 {
	s := st.(*state)
	s.mu.Lock()
	var found []resourcev1.AllocationResult
	if has := s.found[node.Node.Name]; has != nil {
		found = has.devices
	}
	s.mu.Unlock()
	score := int64(0)
	for _, c := range s.claims {
		allocation := c.Status.Allocation
		if allocation == nil && len(found) > 0 {
			allocation, found = &found[0], found[1:]
		}
		if allocation != nil {
			score += rank(c.Spec.Devices.Requests, allocation)
		}
	}
	return score
}

func rank(requests []resourcev1.DeviceRequest, allocation *resourcev1.AllocationResult) int64 {
	score := int64(0)
	for _, r := range requests {
		for i, sub := range r.FirstAvailable {
			ref := resourceclaim.CreateSubRequestRef(r.Name, sub.Name)
			if slices.ContainsFunc(allocation.Devices.Results, func(d resourcev1.DeviceRequestAllocationResult) bool { return d.Request == ref }) {
				score += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - i)
			}
		}
	}
	return score
}

func (*plugin) Normalize(_ framework.State, _ []*framework.NodeInfo, scores []int64) {
	framework.NormalizeByMax(scores, false)
}

// Reserve promises the devices that Filter has found.
func (p *plugin) Reserve(_ context.Context, st framework.State, _ *v1.Pod, nodeName string) *framework.Status {
	s, ok := st.(*state)
	if !ok || s.allocator == nil {
		return nil
	}
	has, without := s.found[nodeName], s.unallocated()
	if has != nil && has.extended != nil {
		s.claims, without = append(s.claims, has.extended), append(without, has.extended)
	}
	if has == nil || len(has.devices) != len(without) {
		return framework.AsStatus(fmt.Errorf("claim allocation not found for node %s", nodeName))
	}
	for i, c := range without {
		c.promised = &has.devices[i]
		p.pending.promise(c.ResourceClaim, c.promised)
	}
	return nil
}

// Unreserve takes back promises, and reservations that PreBind has written.
func (p *plugin) Unreserve(ctx context.Context, st framework.State, pod *v1.Pod, _ string) {
	s, ok := st.(*state)
	if !ok {
		return
	}
	for _, c := range s.claims {
		switch {
		case c.mappings != nil && c.ResourceVersion != "": // made, for this pod
			if err := p.remove(context.WithoutCancel(ctx), c.ResourceClaim); err != nil {
				klog.FromContext(ctx).Error(err, "Taking back a claim for extended resources", "pod", klog.KObj(pod))
			}
			p.pending.takeBack(c.UID)
		case c.reserved:
			p.unreserve(ctx, c.ResourceClaim, pod)
		case c.promised != nil:
			p.pending.takeBack(c.UID)
		}
	}
}

// NeedsPreBind implements framework.PreBinder.
func (*plugin) NeedsPreBind(st framework.State, _ string) bool {
	s, ok := st.(*state)
	return ok && len(s.claims) > 0
}

// PreBindsBesideOthers implements framework.ConcurrentPreBinder.
func (*plugin) PreBindsBesideOthers() {}

// PreBind writes devices and reservations into the claims, and waits for devices that are not ready.
func (p *plugin) PreBind(ctx context.Context, st framework.State, pod *v1.Pod, nodeName string) *framework.Status {
	s := st.(*state)
	for _, c := range s.claims {
		if resourceclaim.IsReservedForPod(pod, c.ResourceClaim, false) {
			continue
		}
		if err := p.book(ctx, c, pod); err != nil {
			return framework.AsStatus(err)
		}
	}
	return framework.AsStatus(p.waitForDevices(ctx, s, pod, nodeName))
}

// book writes what is promised to a claim, which it makes before if it is that for extended resources.
func (p *plugin) book(ctx context.Context, c *claim, pod *v1.Pod) error {
	if c.mappings != nil {
		if err := p.create(ctx, c); err != nil {
			return err
		}
	}
	written, err := p.bind(ctx, c, pod)
	if err != nil {
		return err
	}
	c.ResourceClaim, c.reserved = written, true
	if c.mappings != nil {
		return p.tell(ctx, pod, c)
	}
	return nil
}
