// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/#node-out-of-memory-behavior
func TestOOMScore(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	container := func(name, asks, most string) v1.Container {
		c := v1.Container{Name: name}
		if asks != "" {
			c.Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(asks), v1.ResourceCPU: resource.MustParse("1")}
		}
		if most != "" {
			c.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(most), v1.ResourceCPU: resource.MustParse("1")}
		}
		return c
	}
	const capacity = 8 << 30
	for _, c := range []struct {
		name     string
		pod      v1.PodSpec
		sidecar  bool // the score is that of the first init container
		capacity int64
		want     int64
	}{
		{"guaranteed", v1.PodSpec{Containers: []v1.Container{container("c", "1Gi", "1Gi")}}, false, capacity, -997},
		{"best effort", v1.PodSpec{Containers: []v1.Container{container("c", "", "")}}, false, capacity, 1000},
		{"what the node lives on", v1.PodSpec{PriorityClassName: "system-node-critical", Containers: []v1.Container{container("c", "", "")}}, false, capacity, -997},
		{"burstable, a quarter of the memory", v1.PodSpec{Containers: []v1.Container{container("c", "2Gi", "")}}, false, capacity, 750},
		{"burstable, hardly any", v1.PodSpec{Containers: []v1.Container{container("c", "1Mi", "")}}, false, capacity, 999},
		{"burstable, all of it", v1.PodSpec{Containers: []v1.Container{container("c", "8Gi", "")}}, false, capacity, 3},
		{"burstable, unknown memory", v1.PodSpec{Containers: []v1.Container{container("c", "2Gi", "")}}, false, 0, 999},
		{"a sidecar is not killed before those it serves", v1.PodSpec{
			InitContainers: []v1.Container{func() v1.Container { s := container("s", "1Mi", ""); s.RestartPolicy = &always; return s }()},
			Containers:     []v1.Container{container("c", "4Gi", ""), container("d", "2Gi", "")},
		}, true, capacity, 750},
	} {
		of := &c.pod.Containers[0]
		if c.sidecar {
			of = &c.pod.InitContainers[0]
		}
		if got := oomScore(&v1.Pod{Spec: c.pod}, of, c.capacity); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
