// SPDX-License-Identifier: Apache-2.0

package framework

import (
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// What is added up quickly is what the library makes of the same pod, also when a container is being resized or asks for less than can be told.
func TestAddContainers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	amounts := func() v1.ResourceList {
		list := v1.ResourceList{}
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, "example.com/gpu", "hugepages-2Mi", "unknown"} {
			if r.IntN(3) == 0 {
				list[name] = resource.MustParse([]string{"0", "1", "2", "100m", "1100m", "10u", "3Ki"}[r.IntN(7)])
			}
		}
		return list
	}
	quick := 0
	for seed := range 5000 {
		pod := &v1.Pod{}
		for i := range 1 + r.IntN(3) {
			c := v1.Container{Name: fmt.Sprint(i), Resources: v1.ResourceRequirements{Requests: amounts()}}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
			status := v1.ContainerStatus{Name: c.Name}
			switch r.IntN(6) {
			case 0:
				status.AllocatedResources = amounts()
			case 1:
				status.Resources = &v1.ResourceRequirements{Requests: amounts()}
			case 2, 3, 4:
				status.AllocatedResources, status.Resources = c.Resources.Requests.DeepCopy(), c.Resources.DeepCopy()
			}
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, status)
		}
		if r.IntN(10) == 0 {
			pod.Spec.Overhead = amounts()
		}
		if r.IntN(5) == 0 {
			pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodResizePending, Reason: []string{v1.PodReasonInfeasible, v1.PodReasonDeferred}[r.IntN(2)]}}
		}
		p := &PodInfo{Pod: pod}
		if !p.addContainers() {
			continue
		}
		quick++
		if request, nonZero := podRequests(pod); !p.Request.Equal(&request) || !p.NonZero.Equal(&nonZero) {
			t.Fatalf("pod %d requests %+v, %+v; the library says %+v, %+v\nof %+v", seed, p.Request, p.NonZero, request, nonZero, pod)
		}
	}
	if quick < 500 {
		t.Errorf("only %d pods were added up quickly", quick)
	}
}
