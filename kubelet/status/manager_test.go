// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/testutil"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// Each end of a container is counted once, not those that the API knew before this process.
func TestEndedContainers(t *testing.T) {
	state := func(name string, codes ...int32) v1.ContainerStatus {
		s := v1.ContainerStatus{Name: name, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
		if len(codes) > 0 {
			s.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: codes[0], Reason: "Error"}}
		}
		return s
	}
	counts := metrics.New("n1")
	m := NewManager(nil, nil)
	m.Ended = counts.EndedContainers
	pod := &v1.Pod{Status: v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{state("i", 0)}}}
	for _, s := range []v1.ContainerStatus{state("a"), state("a", 139), state("a", 139), state("a"), state("a", 139), state("a", 1)} {
		m.Set(pod, v1.PodStatus{
			InitContainerStatuses: []v1.ContainerStatus{state("i", 0)}, ContainerStatuses: []v1.ContainerStatus{s},
			EphemeralContainerStatuses: []v1.ContainerStatus{state("e", 2)},
		})
	}
	err := testutil.GatherAndCompare(counts.All, strings.NewReader(`
# HELP kubelet_terminated_containers_total [ALPHA] Cumulative number of container terminations.
# TYPE kubelet_terminated_containers_total counter
kubelet_terminated_containers_total{container_type="container",exit_code="139",reason="Error"} 2
kubelet_terminated_containers_total{container_type="ephemeral_container",exit_code="2",reason="Error"} 1
`), "kubelet_terminated_containers_total")
	if err != nil {
		t.Error(err)
	}
}
