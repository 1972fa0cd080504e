// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"sync"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"
)

// pending keeps the devices that are promised to claims and that the informer does not show there yet.
type pending struct {
	mu       sync.Mutex
	promises map[types.UID]*promise // guarded by mu: by the claim's UID
}

type promise struct {
	devices *resourcev1.AllocationResult
	written string // resource version of the claim that has them; empty until it is written
	// made is when the scheduler itself made the claim, which the informer may not know yet; zero if somebody else did.
	made time.Time
}

// unknown is how long a claim that the scheduler has made may be missing before it is taken to be gone.
const unknown = time.Minute

func newPending() *pending { return &pending{promises: make(map[types.UID]*promise)} }

func (p *pending) promise(c *resourcev1.ResourceClaim, devices *resourcev1.AllocationResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.promises[c.UID] = &promise{devices: devices}
}

// passOn gives the promise of a claim that was only planned to the claim that was made.
func (p *pending) passOn(planned, made types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.promises[planned]; have != nil {
		have.made = time.Now()
		p.promises[made] = have
		delete(p.promises, planned)
	}
}

func (p *pending) takeBack(claim types.UID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.promises, claim)
}

func (p *pending) written(c *resourcev1.ResourceClaim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if have := p.promises[c.UID]; have != nil {
		have.written = c.ResourceVersion
	}
}

// has says whether devices are promised to a claim that, as the informer shows it, has none.
func (p *pending) has(c *resourcev1.ResourceClaim) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of(c) != nil
}

// of returns the promise to a claim. A promise ends when the informer shows the claim as it was written, or later.
func (p *pending) of(c *resourcev1.ResourceClaim) *promise {
	have := p.promises[c.UID]
	if have == nil || have.written == "" {
		return have
	}
	if order, err := resourceversion.CompareResourceVersion(c.ResourceVersion, have.written); err == nil && order < 0 {
		return have
	}
	delete(p.promises, c.UID)
	return nil
}

// inUse adds up the devices that claims have, and those that are promised to others.
func (p *pending) inUse(claims []*resourcev1.ResourceClaim) structured.AllocatedState {
	all := structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := sets.New[types.UID]()
	for _, c := range claims {
		known.Insert(c.UID)
		if c.Status.Allocation != nil {
			use(&all, c.Status.Allocation)
		} else if have := p.of(c); have != nil {
			use(&all, have.devices)
		}
	}
	for uid, have := range p.promises {
		switch {
		case known.Has(uid):
		case have.written != "" && time.Since(have.made) > unknown: // the claim is gone
			delete(p.promises, uid)
		default:
			use(&all, have.devices)
		}
	}
	return all
}

func use(all *structured.AllocatedState, a *resourcev1.AllocationResult) {
	for i := range a.Devices.Results {
		r := &a.Devices.Results[i]
		if ptr.Deref(r.AdminAccess, false) {
			continue // whoever watches over a device does not use it
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			all.AllocatedDevices.Insert(id)
			continue
		}
		all.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
		if r.ConsumedCapacity != nil {
			all.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
		}
	}
}
