// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// https://kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources/#node-allocatable
func TestAllocatable(t *testing.T) {
	list := func(pairs ...string) v1.ResourceList {
		l := v1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			l[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		return l
	}
	machine := Machine{CPUs: 4, Memory: 8 << 30, Disk: 100 << 30, HugePages: map[int64]int64{2 << 20: 1 << 30}}
	for _, c := range []struct {
		name               string
		reserved, eviction v1.ResourceList
		want               v1.ResourceList
	}{
		{"nothing kept but huge pages", nil, nil, list("cpu", "4", "memory", "7Gi", "ephemeral-storage", "100Gi", "hugepages-2Mi", "1Gi", "pods", "110")},
		{"for the system and Kubernetes", list("cpu", "500m", "memory", "1Gi", "ephemeral-storage", "10Gi", "pid", "100"), nil,
			list("cpu", "3500m", "memory", "6Gi", "ephemeral-storage", "90Gi", "hugepages-2Mi", "1Gi", "pods", "110")},
		{"and until eviction", list("memory", "1Gi"), list("memory", "100Mi", "ephemeral-storage", "10Gi"),
			list("cpu", "4", "memory", "6044Mi", "ephemeral-storage", "90Gi", "hugepages-2Mi", "1Gi", "pods", "110")},
		{"more than there is", list("cpu", "8", "memory", "7680Mi"), nil, list("cpu", "0", "memory", "0", "ephemeral-storage", "100Gi", "hugepages-2Mi", "1Gi", "pods", "110")},
	} {
		config := &Config{MaxPods: 110, Reserved: c.reserved, EvictionHard: c.eviction}
		got := config.allocatable(config.capacity(machine))
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		for name, want := range c.want {
			if have := got[name]; have.Cmp(want) != 0 {
				t.Errorf("%s: %s of %s, want %s", c.name, have.String(), name, want.String())
			}
		}
	}
}
