// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"slices"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/skiff-k8s/skiff/kubelet/numa"
)

// choose picks devices: those that must be among them, then those that the plugin prefers, then any. There are enough.
func choose(free, must, preferred []string, count int) []string {
	chosen := slices.Clone(must)
	for _, from := range [][]string{preferred, free} {
		for _, id := range from {
			if len(chosen) < count && slices.Contains(free, id) && !slices.Contains(chosen, id) {
				chosen = append(chosen, id)
			}
		}
	}
	slices.Sort(chosen)
	return chosen
}

// byPlace puts the devices that are near before those that are nowhere, and those before the ones that are elsewhere. If the near
// ones are enough, the others are left out, but those that must be.
func byPlace(free []string, devices map[string]*api.Device, near numa.Mask, count int, must []string) []string {
	if near == 0 {
		return free
	}
	rank := func(id string) int {
		switch at := place(devices[id]); {
		case at&near != 0 || slices.Contains(must, id):
			return 0
		case at == 0:
			return 1
		}
		return 2
	}
	sorted := slices.Clone(free)
	slices.SortStableFunc(sorted, func(a, b string) int { return cmp.Compare(rank(a), rank(b)) })
	enough := 0
	for _, id := range sorted {
		if rank(id) == 0 {
			enough++
		}
	}
	if enough >= count {
		return sorted[:enough]
	}
	return sorted
}
