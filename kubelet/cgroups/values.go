// SPDX-License-Identifier: Apache-2.0

package cgroups

import "math"

// What the kernel takes and Kubernetes assumes of CPU weights and quotas.
const (
	minShares    = 2
	maxShares    = 262144
	sharesPerCPU = 1024
	minQuota     = 1000 // microseconds
)

// Shares are the CPU shares of a request in thousandths of a CPU.
func Shares(milliCPU int64) int64 {
	if milliCPU == 0 {
		return minShares
	}
	return min(max(milliCPU*sharesPerCPU/1000, minShares), maxShares)
}

// Quota is the CPU time per period, in microseconds, of a limit in thousandths of a CPU; 0 for no limit.
func Quota(milliCPU, period int64) int64 {
	if milliCPU == 0 {
		return 0
	}
	return max(milliCPU*period/1000, minQuota)
}

// weight turns cpu.shares of cgroup v1 into cpu.weight of v2, as runc does it: least, default (1024 to 100) and most meet.
func weight(shares int64) int64 {
	switch {
	case shares == 0:
		return 0
	case shares <= minShares:
		return 1
	case shares >= maxShares:
		return 10000
	}
	l := math.Log2(float64(shares))
	return int64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}
