// SPDX-License-Identifier: Apache-2.0

package cgroups

import (
	"errors"
	"os"

	v1 "k8s.io/api/core/v1"
)

// MemoryQoS is what cgroup v2 does for memory that is requested, and against containers that come near their limit. The zero
// value does nothing.
// Reference: https://kep.k8s.io/2570
type MemoryQoS struct {
	Tiered bool    // what Guaranteed pods request is never taken back from them, what Burstable pods request as the last
	Factor float64 // how far between its request and its limit a container is slowed down; 0: never
}

// Protection is memory that the kernel does not take back from a group: never (Min), and while there is other (Low).
type Protection struct{ Min, Low int64 }

// Protection is that of a pod of a class, or of a container in it, which requests so much; nil: none.
func (q MemoryQoS) Protection(class v1.PodQOSClass, request int64) *Protection {
	switch {
	case !q.Tiered || request == 0:
		return nil
	case class == v1.PodQOSGuaranteed:
		return &Protection{Min: request}
	}
	return &Protection{Low: request}
}

// High is the use above which the kernel slows down what requests and may have so much; 0 for no such use.
func (q MemoryQoS) High(request, limit int64) int64 {
	if q.Factor == 0 || limit == 0 || request == limit {
		return 0
	}
	page := int64(os.Getpagesize())
	high := int64(float64(request)+float64(limit-request)*q.Factor) / page * page
	if high <= request {
		return 0
	}
	return high
}

// ProtectMemory protects what the pods of two classes request together: a group has no more protection than those above it.
func (t *Tree) ProtectMemory(guaranteed, burstable int64) error {
	return errors.Join(
		t.apply(name{kubepods}, Limits{Protection: &Protection{Min: guaranteed + burstable, Low: burstable}}),
		t.apply(name{kubepods, "burstable"}, Limits{Protection: &Protection{Low: burstable}}),
	)
}
