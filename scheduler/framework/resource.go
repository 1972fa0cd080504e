// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"encoding/binary"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// DefaultMilliCPURequest stands in, when scoring, for a container that requests no CPU.
	DefaultMilliCPURequest int64 = 100
	// DefaultMemoryRequest stands in, when scoring, for a container that requests no memory.
	DefaultMemoryRequest int64 = 200 << 20
)

// Resource is a ResourceList as plain numbers, which the hot loop can add and compare.
type Resource struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	AllowedPods      int64 // only of a node's allocatable
	// Scalar holds extended resources, huge pages and attachable volumes; often nil.
	Scalar map[v1.ResourceName]int64
}

// NewResource converts a ResourceList.
func NewResource(list v1.ResourceList) Resource {
	var r Resource
	r.addExactly(list, false)
	return r
}

// addExactly adds a list to what is there. It is false if it has an amount that had to be rounded, which matters when more are to come.
func (r *Resource) addExactly(list v1.ResourceList, more bool) bool {
	for name, quantity := range list {
		value, exact := quantity.Value(), resource.NewQuantity
		if name == v1.ResourceCPU {
			value, exact = quantity.MilliValue(), resource.NewMilliQuantity
		}
		if more && exact(value, quantity.Format).Cmp(quantity) != 0 {
			return false
		}
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU += value
		case v1.ResourceMemory:
			r.Memory += value
		case v1.ResourceEphemeralStorage:
			r.EphemeralStorage += value
		case v1.ResourcePods:
			r.AllowedPods += value
		default:
			if isScalar(name) {
				r.addScalar(name, value)
			}
		}
	}
	return true
}

// Add adds other, sign times (1 or -1).
func (r *Resource) Add(other *Resource, sign int64) {
	r.MilliCPU += sign * other.MilliCPU
	r.Memory += sign * other.Memory
	r.EphemeralStorage += sign * other.EphemeralStorage
	for name, value := range other.Scalar {
		r.addScalar(name, sign*value)
	}
}

// Equal says whether all amounts are the same.
func (r *Resource) Equal(other *Resource) bool {
	return r.MilliCPU == other.MilliCPU && r.Memory == other.Memory && r.EphemeralStorage == other.EphemeralStorage &&
		r.AllowedPods == other.AllowedPods && maps.Equal(r.Scalar, other.Scalar)
}

// Sign appends all amounts to a signature.
func (r *Resource) Sign(b []byte) []byte {
	for _, amount := range [...]int64{r.MilliCPU, r.Memory, r.EphemeralStorage, r.AllowedPods, int64(len(r.Scalar))} {
		b = binary.AppendVarint(b, amount)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Scalar)) {
		b = binary.AppendVarint(SignString(b, string(name)), r.Scalar[name])
	}
	return b
}

// Get returns the amount of one resource.
func (r *Resource) Get(name v1.ResourceName) int64 {
	switch name {
	case v1.ResourceCPU:
		return r.MilliCPU
	case v1.ResourceMemory:
		return r.Memory
	case v1.ResourceEphemeralStorage:
		return r.EphemeralStorage
	case v1.ResourcePods:
		return r.AllowedPods
	}
	return r.Scalar[name]
}

func (r *Resource) addScalar(name v1.ResourceName, value int64) {
	if r.Scalar == nil {
		r.Scalar = make(map[v1.ResourceName]int64, 1)
	}
	r.Scalar[name] += value
}

func (r Resource) clone() Resource {
	r.Scalar = maps.Clone(r.Scalar)
	return r
}

// isScalar says whether a resource other than the well-known ones is one to schedule by.
func isScalar(name v1.ResourceName) bool {
	s := string(name)
	return strings.HasPrefix(s, v1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(s, v1.ResourceAttachableVolumesPrefix) ||
		strings.Contains(s, v1.ResourceDefaultNamespacePrefix) ||
		IsExtendedResource(name)
}

// IsExtendedResource says whether name is outside the kubernetes.io domain.
func IsExtendedResource(name v1.ResourceName) bool {
	s := string(name)
	return strings.Contains(s, "/") && !strings.Contains(s, v1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(s, v1.DefaultResourceRequestsPrefix)
}
