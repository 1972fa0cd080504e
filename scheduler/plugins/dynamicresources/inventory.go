// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// Inventory counts devices for plugins that rate nodes by how many are in use. What is promised to pods counts as in use. It is used by the
// scheduling loop alone.
type Inventory struct {
	handle  *framework.Handle
	pending *pending
	cel     *cel.Cache
	// members has, for slices and classes that were counted before, which devices are of the class. Both are replaced when they change.
	members map[membership][]bool
}

type membership struct {
	slice *resourcev1.ResourceSlice
	class *resourcev1.DeviceClass
}

// NewInventory is called when plugins are made.
func NewInventory(h *framework.Handle) *Inventory {
	return &Inventory{handle: h, pending: pendingOf(h), cel: newCache(), members: make(map[membership][]bool)}
}

// pendingOf returns what is promised, which the plugins of all profiles share.
func pendingOf(h *framework.Handle) *pending {
	return h.Shared(Name, func() any { return newPending() }).(*pending)
}

func newCache() *cel.Cache {
	return cel.NewCache(10, cel.Features{EnableConsumableCapacity: features.ConsumableCapacity})
}

// Devices are those of one class.
type Devices struct {
	everywhere amount
	byNode     map[string]amount
	selected   []selected
}

type amount struct{ all, used int64 }

type selected struct {
	nodes *nodeaffinity.NodeSelector
	amount
}

// On says how many devices a node can use, and how many of these are in use.
func (d *Devices) On(node *v1.Node) (all, used int64) {
	sum := d.everywhere
	sum.add(d.byNode[node.Name])
	for i := range d.selected {
		if s := &d.selected[i]; s.nodes.Match(node) {
			sum.add(s.amount)
		}
	}
	return sum.all, sum.used
}

func (a *amount) add(more amount) {
	a.all += more.all
	a.used += more.used
}

// Count counts the devices of a class.
func (inv *Inventory) Count(ctx context.Context, class *resourcev1.DeviceClass) (*Devices, error) {
	if err := inv.handle.Need(ctx, framework.ResourceClaim, framework.ResourceSlice); err != nil {
		return nil, err
	}
	resources := inv.handle.Informers.Resource().V1()
	claims, err := resources.ResourceClaims().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	slices, err := resources.ResourceSlices().Lister().List(labels.Everything())
	if err != nil {
		return nil, err
	}
	inUse := inv.pending.inUse(claims)
	known := inv.members
	inv.members = make(map[membership][]bool, len(slices))
	for key, of := range known {
		if key.class.Name != class.Name {
			inv.members[key] = of
		}
	}
	d := &Devices{byNode: make(map[string]amount)}
	for _, slice := range slices {
		of := known[membership{slice, class}]
		if of == nil {
			if of, err = inv.findMembers(ctx, slice, class); err != nil {
				return nil, fmt.Errorf("count devices of class %s: %w", class.Name, err)
			}
		}
		inv.members[membership{slice, class}] = of
		if err := d.addSlice(slice, of, &inUse); err != nil {
			return nil, fmt.Errorf("count devices of slice %s: %w", slice.Name, err)
		}
	}
	return d, nil
}

// findMembers says which devices of a slice all selectors of the class select.
func (inv *Inventory) findMembers(ctx context.Context, slice *resourcev1.ResourceSlice, class *resourcev1.DeviceClass) ([]bool, error) {
	of := make([]bool, len(slice.Spec.Devices))
	for i := range slice.Spec.Devices {
		device := &slice.Spec.Devices[i]
		of[i] = true
		for _, selector := range class.Spec.Selectors {
			if selector.CEL == nil {
				continue
			}
			expression := inv.cel.GetOrCompile(selector.CEL.Expression)
			if expression.Error != nil {
				return nil, expression.Error
			}
			matches, _, err := expression.DeviceMatches(ctx, cel.Device{
				Driver: slice.Spec.Driver, AllowMultipleAllocations: device.AllowMultipleAllocations,
				Attributes: device.Attributes, Capacity: device.Capacity,
			})
			if err != nil {
				return nil, err
			}
			of[i] = of[i] && matches
		}
	}
	return of, nil
}

func (d *Devices) addSlice(slice *resourcev1.ResourceSlice, of []bool, inUse *structured.AllocatedState) error {
	spec := &slice.Spec
	var whole amount
	for i := range spec.Devices {
		if !of[i] {
			continue
		}
		device := &spec.Devices[i]
		one := amount{all: 1}
		if structured.IsDeviceAllocated(structured.MakeDeviceID(spec.Driver, spec.Pool.Name, device.Name), inUse) {
			one.used = 1
		}
		if !ptr.Deref(spec.PerDeviceNodeSelection, false) {
			whole.add(one)
		} else if err := d.add(one, device.NodeName, device.AllNodes, device.NodeSelector); err != nil {
			return err
		}
	}
	if whole.all == 0 {
		return nil
	}
	return d.add(whole, spec.NodeName, spec.AllNodes, spec.NodeSelector)
}

// add counts devices that some nodes can use.
func (d *Devices) add(a amount, nodeName *string, allNodes *bool, nodes *v1.NodeSelector) error {
	switch {
	case ptr.Deref(allNodes, false):
		d.everywhere.add(a)
	case ptr.Deref(nodeName, "") != "":
		a.add(d.byNode[*nodeName])
		d.byNode[*nodeName] = a
	case nodes != nil:
		parsed, err := nodeaffinity.NewNodeSelector(nodes)
		if err != nil {
			return err
		}
		d.selected = append(d.selected, selected{parsed, a})
	}
	return nil
}
