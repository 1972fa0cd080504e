// SPDX-License-Identifier: Apache-2.0

package endpointslicemirroring

import (
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	sliceutil "k8s.io/endpointslice/util"
)

// size is what mirroring makes of some Endpoints.
type size struct{ endpoints, slices, desired int }

// measure notes what a sync finds and is about to do.
func (c *controller) measure(key types.NamespacedName, wanted mirrored, existing []*discoveryv1.EndpointSlice, todo changes) {
	added, updated, removed, total := compare(existing, wanted.groups)
	c.metrics.Added.WithLabelValues().Observe(float64(added))
	c.metrics.Updated.WithLabelValues().Observe(float64(updated))
	c.metrics.Removed.WithLabelValues().Observe(float64(removed))
	c.metrics.Skipped.WithLabelValues().Observe(float64(wanted.skipped))
	c.resize(key, size{total, len(existing) + len(todo.create) - len(todo.remove), len(wanted.groups)})
}

// compare counts the endpoints that are new, changed and gone, and all that are wanted.
func compare(existing []*discoveryv1.EndpointSlice, groups []group) (added, updated, removed, total int) {
	had := map[string]*discoveryv1.Endpoint{}
	id := func(k key, e *discoveryv1.Endpoint) string {
		uid := types.UID("")
		if e.TargetRef != nil {
			uid = e.TargetRef.UID
		}
		return fmt.Sprint(k, e.Addresses, uid)
	}
	for _, slice := range existing {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			had[id(key{slice.AddressType, sliceutil.NewPortMapKey(slice.Ports)}, e)] = e
		}
	}
	for _, g := range groups {
		total += len(g.endpoints)
		for i := range g.endpoints {
			e := &g.endpoints[i]
			old, known := had[id(g.key(), e)]
			switch {
			case !known:
				added++
			case !sliceutil.EndpointsEqualBeyondHash(old, e):
				updated++
			}
			delete(had, id(g.key(), e))
		}
	}
	return added, updated, len(had), total
}

// resize notes the size of some Endpoints, which is none when they are not mirrored, and measures that of all.
func (c *controller) resize(key types.NamespacedName, now size) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now == (size{}) {
		delete(c.sizes, key)
	} else {
		c.sizes[key] = now
	}
	var all size
	for _, s := range c.sizes {
		all.endpoints, all.slices, all.desired = all.endpoints+s.endpoints, all.slices+s.slices, all.desired+s.desired
	}
	c.metrics.Endpoints.WithLabelValues().Set(float64(all.endpoints))
	c.metrics.Slices.WithLabelValues().Set(float64(all.slices))
	c.metrics.DesiredSlices.WithLabelValues().Set(float64(all.desired))
}
