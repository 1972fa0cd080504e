// SPDX-License-Identifier: Apache-2.0

package dynamicresources

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
)

// withRules adds to devices the taints of the rules that select them. Slices that no rule is about are returned as they are.
func withRules(all []*resourcev1.ResourceSlice, rules []*resourcev1.DeviceTaintRule) []*resourcev1.ResourceSlice {
	if len(rules) == 0 {
		return all
	}
	tainted := slices.Clone(all)
	for i, slice := range all {
		for _, rule := range rules {
			for j := range slice.Spec.Devices {
				if !selects(rule.Spec.DeviceSelector, slice, slice.Spec.Devices[j].Name) {
					continue
				}
				if tainted[i] == slice {
					tainted[i] = slice.DeepCopy()
				}
				device := &tainted[i].Spec.Devices[j]
				device.Taints = append(device.Taints, rule.Spec.Taint)
			}
		}
	}
	return tainted
}

// selects says whether everything that the selector names is so. No selector selects nothing.
func selects(s *resourcev1.DeviceTaintSelector, slice *resourcev1.ResourceSlice, device string) bool {
	is := func(want *string, have string) bool { return want == nil || *want == have }
	return s != nil && is(s.Driver, slice.Spec.Driver) && is(s.Pool, slice.Spec.Pool.Name) && is(s.Device, device)
}
