// SPDX-License-Identifier: Apache-2.0

package devices

import "slices"

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
