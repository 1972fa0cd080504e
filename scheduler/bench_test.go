// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

// BenchmarkSchedule measures a decision, from snapshot to assumed pod, without the API.
func BenchmarkSchedule(b *testing.B) {
	spread := func(p *v1.Pod) {
		p.Labels = map[string]string{"app": "web"}
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: "zone", WhenUnsatisfiable: v1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
		}}
	}
	antiAffinity := func(p *v1.Pod) {
		p.Labels = map[string]string{"color": p.Name}
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
		}}}}
	}
	for _, shape := range []struct {
		name   string
		change func(*v1.Pod)
	}{{"basic", func(*v1.Pod) {}}, {"spread", spread}, {"antiaffinity", antiAffinity}} {
		for _, nodes := range []int{1, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", shape.name, nodes), func(b *testing.B) { benchmark(b, nodes, shape.change) })
		}
	}
}

func benchmark(b *testing.B, nodes int, change func(*v1.Pod)) {
	client := fake.NewClientset()
	s, err := New(Config{}, client, informers.NewSharedInformerFactory(client, 0), nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := range nodes {
		s.cache.SetNode(newNode(fmt.Sprint("node-", i), func(n *v1.Node) {
			n.Status.Allocatable = resources("10000", "1000Ti", "1000000")
			n.Labels["zone"] = fmt.Sprint(i % 3)
		}))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		pod := newPod(fmt.Sprint("p", i), cpu("10m"), change)
		info := framework.NewPodInfo(pod)
		s.cache.UpdateSnapshot(&s.snapshot)
		cycle := framework.NewCycle(s.profiles[v1.DefaultSchedulerName], info, &s.snapshot, s.queue.Nominated)
		node, err := s.pickNode(b.Context(), cycle)
		if err != nil {
			b.Fatal(err)
		}
		pod.Spec.NodeName = node
		if err := s.cache.Assume(info); err != nil {
			b.Fatal(err)
		}
	}
}
