// SPDX-License-Identifier: Apache-2.0

package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Whose sysctls may be set, and what the others are told.
func TestSysctls(t *testing.T) {
	for _, c := range []struct {
		set       string
		hostNet   bool
		hostIPC   bool
		rejection string
	}{
		{set: "net.ipv4.tcp_syncookies"},
		{set: "net/ipv4/tcp_syncookies"},
		{set: "kernel.msgmax", rejection: `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
		{set: "kernel.shmmax"},
		{set: "kernel.shmmax", hostIPC: true, rejection: `Pod was rejected: forbidden sysctl: "kernel.shmmax" not allowed with host ipc enabled`},
		{set: "net.ipv4.tcp_rmem", hostNet: true, rejection: `Pod was rejected: forbidden sysctl: "net.ipv4.tcp_rmem" not allowed with host net enabled`},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{HostNetwork: c.hostNet, HostIPC: c.hostIPC, SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: c.set}}}}}
		got := ""
		if r := Sysctls(pod, []string{"kernel.shm*"}); r != nil {
			got = r.Message
		}
		if got != c.rejection {
			t.Errorf("%s: %q, want %q", c.set, got, c.rejection)
		}
	}
}

// What is asked for is compared with what others were granted, and with the node's ports and labels.
func TestCheck(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"disk": "slow"}}}
	node.Status.Allocatable = v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("2")}
	pod := func(cpu string, change func(*v1.Pod)) *v1.Pod {
		p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}}}
		if change != nil {
			change(p)
		}
		return p
	}
	port := func(p *v1.Pod) { p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80}} }
	for name, c := range map[string]struct {
		pod    *v1.Pod
		others []*v1.Pod
		want   string
	}{
		"fits":          {pod("1", nil), []*v1.Pod{pod("1", nil)}, ""},
		"CPU is taken":  {pod("1", nil), []*v1.Pod{pod("1500m", nil)}, "OutOfcpu"},
		"too many pods": {pod("0", nil), []*v1.Pod{pod("0", nil), pod("0", nil)}, "OutOfpods"},
		"port is taken": {pod("0", port), []*v1.Pod{pod("0", port)}, "NodePorts"},
		"wrong node":    {pod("0", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }), nil, "NodeAffinity"},
		"wrong system":  {pod("0", func(p *v1.Pod) { p.Spec.OS = &v1.PodOS{Name: v1.Windows} }), nil, "PodOSNotSupported"},
		"unknown extended resource is not ours": {pod("0", func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}), nil, ""},
		"strict groups": {pod("0", func(p *v1.Pod) {
			strict := v1.SupplementalGroupsPolicyStrict
			p.Spec.SecurityContext = &v1.PodSecurityContext{SupplementalGroupsPolicy: &strict}
		}), nil, "SupplementalGroupsPolicyNotSupported"},
	} {
		got := ""
		if r := Check(c.pod, node, c.others); r != nil {
			got = r.Reason
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
