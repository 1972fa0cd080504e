// SPDX-License-Identifier: Apache-2.0

package devicetainteviction

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// pool is what a driver publishes under one name, in one slice or more.
type pool struct{ driver, name string }

func poolOf(slice *resourcev1.ResourceSlice) pool {
	return pool{slice.Spec.Driver, slice.Spec.Pool.Name}
}

// world is what decisions are made from.
type world struct {
	newest  map[pool]int64                // generations; slices of older ones are outdated
	tainted map[device][]taint            // by drivers
	rules   []*resourcev1.DeviceTaintRule // that evict
	claim   func(namespace, name string) *resourcev1.ResourceClaim
}

type device struct{ driver, pool, name string }

// taint is a NoExecute taint, and the rule that it comes from, "" if it is the driver's.
type taint struct {
	resourcev1.DeviceTaint
	rule types.UID
}

func newWorld(all []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule, claim func(namespace, name string) *resourcev1.ResourceClaim) *world {
	w := &world{newest: map[pool]int64{}, tainted: map[device][]taint{}, claim: claim}
	for _, slice := range all {
		p := poolOf(slice)
		w.newest[p] = max(w.newest[p], slice.Spec.Pool.Generation)
	}
	for _, slice := range all {
		if !w.isCurrent(slice) {
			continue
		}
		for _, d := range slice.Spec.Devices {
			for _, t := range d.Taints {
				if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
					id := device{slice.Spec.Driver, slice.Spec.Pool.Name, d.Name}
					w.tainted[id] = append(w.tainted[id], taint{DeviceTaint: since(t, slice.CreationTimestamp)})
				}
			}
		}
	}
	for _, rule := range rules {
		if rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute {
			w.rules = append(w.rules, rule)
		}
	}
	return w
}

func (w *world) isCurrent(slice *resourcev1.ResourceSlice) bool {
	return slice.Spec.Pool.Generation == w.newest[poolOf(slice)]
}

// since gives a taint that does not tell when it was added the time of the object that it is in.
func since(t resourcev1.DeviceTaint, created metav1.Time) resourcev1.DeviceTaint {
	if t.TimeAdded == nil {
		t.TimeAdded = &created
	}
	return t
}

func isTainted(slice *resourcev1.ResourceSlice) bool {
	return slices.ContainsFunc(slice.Spec.Devices, func(d resourcev1.Device) bool {
		return slices.ContainsFunc(d.Taints, func(t resourcev1.DeviceTaint) bool { return t.Effect == resourcev1.DeviceTaintEffectNoExecute })
	})
}

// selects tells whether a rule is about a device. A rule that says nothing is about none.
func selects(rule *resourcev1.DeviceTaintRule, driver, pool, name string) bool {
	s := rule.Spec.DeviceSelector
	return s != nil && (s.Driver == nil || *s.Driver == driver) && (s.Pool == nil || *s.Pool == pool) && (s.Device == nil || *s.Device == name)
}

// hasDevice tells whether a claim has a certain device.
func hasDevice(claim *resourcev1.ResourceClaim, is func(*resourcev1.DeviceRequestAllocationResult) bool) bool {
	if claim.Status.Allocation == nil {
		return false
	}
	results := claim.Status.Allocation.Devices.Results
	for i := range results {
		if is(&results[i]) {
			return true
		}
	}
	return false
}

// taintsOf returns all taints of a device that evict.
func (w *world) taintsOf(d device) []taint {
	taints := slices.Clone(w.tainted[d])
	for _, rule := range w.rules {
		if selects(rule, d.driver, d.pool, d.name) {
			taints = append(taints, taint{since(rule.Spec.Taint, rule.CreationTimestamp), rule.UID})
		}
	}
	return taints
}

// eviction is when a pod must go, and the rules because of which.
type eviction struct {
	at    time.Time
	rules []types.UID
}

// evictionOf returns nil for a pod that may stay.
func (w *world) evictionOf(pod *corev1.Pod) *eviction {
	if pod.Spec.NodeName == "" {
		return nil
	}
	var found *eviction
	for name, owned := range resourceclaim.PodClaims(pod) {
		claim := w.claim(pod.Namespace, name)
		if claim == nil || claim.Status.Allocation == nil || !resourceclaim.IsReservedForPod(pod, claim, false) ||
			owned && resourceclaim.IsForPod(pod, claim, false) != nil {
			continue
		}
		results := claim.Status.Allocation.Devices.Results
		for i := range results {
			d := &results[i]
			for _, t := range w.taintsOf(device{d.Driver, d.Pool, d.Device}) {
				at, ends := tolerated(d.Tolerations, &t.DeviceTaint)
				if !ends {
					continue
				}
				if found == nil {
					found = &eviction{at: at}
				}
				if at.Before(found.at) {
					found.at = at
				}
				if t.rule != "" && !slices.Contains(found.rules, t.rule) {
					found.rules = append(found.rules, t.rule)
				}
			}
		}
	}
	return found
}

// tolerated returns until when a taint is tolerated; ends is false if that is for ever. Of several tolerations the
// shortest counts, but one without end wins.
func tolerated(tolerations []resourcev1.DeviceToleration, t *resourcev1.DeviceTaint) (until time.Time, ends bool) {
	until = t.TimeAdded.Time
	shortest := time.Duration(-1)
	for _, toleration := range tolerations {
		if toleration.Effect != resourcev1.DeviceTaintEffectNoExecute || !resourceclaim.ToleratesTaint(toleration, *t) {
			continue
		}
		if toleration.TolerationSeconds == nil {
			return time.Time{}, false
		}
		d := time.Duration(max(*toleration.TolerationSeconds, 0)) * time.Second
		if shortest < 0 || d < shortest {
			shortest = d
		}
	}
	return until.Add(max(shortest, 0)), true
}
