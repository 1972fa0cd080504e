// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// An extended resource that somebody writes into the node's capacity becomes allocatable, changes with it and goes with it; the node's
// own resources are its own.
func TestForeignResources(t *testing.T) {
	const dongle = v1.ResourceName("example.com/dongle")
	c := &Config{Name: "n", MaxPods: 110}
	machine := Machine{CPUs: 2, Memory: 4 << 30, Disk: 10 << 30}
	node := c.Describe(machine, Usable("v1"), time.Now())
	for _, step := range []struct{ capacity, want string }{{"4", "4"}, {"6", "6"}, {"", "0"}} {
		delete(node.Status.Capacity, dongle)
		if step.capacity != "" {
			node.Status.Capacity[dongle] = resource.MustParse(step.capacity)
		}
		node.Status.Capacity[v1.ResourceCPU] = resource.MustParse("99")
		node.Status = c.status(node, machine, Usable("v1"), time.Now())
		for _, list := range []v1.ResourceList{node.Status.Capacity, node.Status.Allocatable} {
			if got := list[dongle]; got.String() != step.want || list.Cpu().Value() > 2 {
				t.Errorf("with a capacity of %q written, the node has %v", step.capacity, list)
			}
		}
	}
}

// A node says whether its kubelet's users are the machine's, as told by /proc/self/uid_map.
func TestRunningInUserNamespace(t *testing.T) {
	for uidMap, want := range map[string]bool{
		"         0          0 4294967295": false, // that of the machine itself
		"         0     100000      65536": true,
		"         0       1000          1": true,
		"":                                 false, // a kernel without user namespaces has no such file
	} {
		node := (&Config{Name: "n"}).Describe(Machine{UserNamespace: inUserNamespace(uidMap)}, Usable("v1"), time.Now())
		if got := node.Status.NodeInfo.RunningInUserNamespace; got == nil || *got != want {
			t.Errorf("with %q: %v, want %t", uidMap, got, want)
		}
	}
}
