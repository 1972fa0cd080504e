// SPDX-License-Identifier: Apache-2.0

package framework

import "slices"

// NormalizeByMax stretches scores so that the highest becomes MaxScore. reverse turns them round: the
// lowest is the best.
func NormalizeByMax(scores []int64, reverse bool) {
	highest := int64(0)
	if len(scores) > 0 {
		highest = max(0, slices.Max(scores))
	}
	for i := range scores {
		if highest > 0 {
			scores[i] = MaxScore * scores[i] / highest
		}
		if reverse {
			scores[i] = MaxScore - scores[i]
		}
	}
}
