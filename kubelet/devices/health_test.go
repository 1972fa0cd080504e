// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// healthIs waits until a container's devices are so; it looks whenever the pod is woken.
func (n *node) healthIs(t *testing.T, pod types.UID, container, want string) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		got := fmt.Sprint(n.Health(pod, container))
		if got == want {
			return
		}
		select {
		case uid := <-n.woken:
			if uid != pod {
				t.Fatalf("pod %s was woken, want %s alone", uid, pod)
			}
		case <-deadline:
			t.Fatalf("the devices are %s, want %s", got, want)
		}
	}
}

// https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/#device-plugin-and-unhealthy-devices
func TestHealth(t *testing.T) {
	const name = "example.org/gpu"
	n := start(t, t.TempDir())
	p := n.offer(t, name, nil, device("d1", api.Healthy), device("d2", api.Healthy), device("d3", api.Healthy))
	n.has(t, name, 3, 3)
	if err := n.allocate(t.Context(), pod("p1", name, "2")); err != nil {
		t.Fatal(err)
	}
	if got := n.Health("p2", "a"); got != nil {
		t.Errorf("a pod without devices has %v", got)
	}
	n.healthIs(t, "p1", "a", "[{example.org/gpu [{d1 Healthy <nil>} {d2 Healthy <nil>}]}]")
	p.lists <- []*api.Device{device("d1", api.Healthy), device("d2", api.Unhealthy), device("d3", api.Healthy)}
	n.healthIs(t, "p1", "a", "[{example.org/gpu [{d1 Healthy <nil>} {d2 Unhealthy <nil>}]}]")
	p.lists <- []*api.Device{device("d1", api.Healthy), device("d2", api.Healthy), device("d3", api.Unhealthy)}
	n.healthIs(t, "p1", "a", "[{example.org/gpu [{d1 Healthy <nil>} {d2 Healthy <nil>}]}]")
	close(p.ended) // without the plugin nothing works
	n.healthIs(t, "p1", "a", "[{example.org/gpu [{d1 Unhealthy <nil>} {d2 Unhealthy <nil>}]}]")
	n.drop(name)
	n.healthIs(t, "p1", "a", "[{example.org/gpu [{d1 Unhealthy <nil>} {d2 Unhealthy <nil>}]}]")
}
