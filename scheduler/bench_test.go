// SPDX-License-Identifier: Apache-2.0

package scheduler

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins"
)

// The shapes are those of upstream's scheduler_perf.
var shapes = []struct {
	name string
	// before are pods that are there already, as many as nodes; nil for none.
	before func(*v1.Pod)
	pod    func(*v1.Pod)
}{
	{"basic", nil, func(*v1.Pod) {}},
	{"spread", nil, spread(v1.DoNotSchedule)},
	{"preferred-spread", nil, spread(v1.ScheduleAnyway)},
	{"affinity", nil, func(p *v1.Pod) {
		p.Labels = map[string]string{"color": "blue"}
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{term("zone", p.Labels)}}}
	}},
	{"preferred-affinity", coloured, func(p *v1.Pod) {
		p.Labels = map[string]string{"color": "red"}
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: term(v1.LabelHostname, p.Labels)}}}}
	}},
	{"antiaffinity", nil, func(p *v1.Pod) {
		p.Labels = map[string]string{"color": "green", "name": p.Name}
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{term(v1.LabelHostname, map[string]string{"name": p.Name})}}}
	}},
	{"nodeaffinity", nil, func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
			MatchExpressions: []v1.NodeSelectorRequirement{{Key: "zone", Operator: v1.NodeSelectorOpIn, Values: []string{"1", "2"}}},
		}}}}}
	}},
}

func spread(when v1.UnsatisfiableConstraintAction) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Labels = map[string]string{"app": "web"}
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
			MaxSkew: 5, TopologyKey: "zone", WhenUnsatisfiable: when, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
		}}
	}
}

func coloured(p *v1.Pod) { p.Labels = map[string]string{"color": "red"} }

func term(key string, labels map[string]string) v1.PodAffinityTerm {
	return v1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}
}

// noBinder is a Binder that says that it has bound.
type noBinder struct{ bound chan *v1.Pod }

func (noBinder) Name() string { return "NoBinder" }
func (b noBinder) Bind(_ context.Context, pod *v1.Pod, _ string) *framework.Status {
	b.bound <- pod
	return nil
}

// withBinder is the default profile with another Binder.
func withBinder(binder framework.Plugin) []plugins.Entry {
	entries := plugins.Default()
	return append(slices.Clip(entries[:len(entries)-1]), plugins.Entry{New: func(*framework.Handle) (framework.Plugin, error) { return binder, nil }})
}

// silent records no events.
type silent struct{}

func (silent) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) {}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // there is nothing that could be wrong
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkScheduler measures the whole scheduler, from pods that appear to bindings that nobody takes: pods per second, and
// the CPU time of each, which says more on a machine that others use too.
func BenchmarkScheduler(b *testing.B) {
	for _, shape := range shapes {
		for _, nodes := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", shape.name, nodes), func(b *testing.B) { benchmark(b, nodes, shape.before, shape.pod) })
		}
	}
}

func benchmark(b *testing.B, nodes int, before, change func(*v1.Pod)) {
	client := fake.NewClientset()
	binder := noBinder{make(chan *v1.Pod, b.N)}
	s, err := New(Config{Profiles: []Profile{{SchedulerName: v1.DefaultSchedulerName, Plugins: withBinder(binder)}}}, client, informers.NewSharedInformerFactory(client, 0), silent{})
	if err != nil {
		b.Fatal(err)
	}
	s.synced = nil // nobody starts the informers
	for i := range nodes {
		s.cache.SetNode(newNode(fmt.Sprint("node-", i), func(n *v1.Node) {
			n.Status.Allocatable = resources("10000", "1000Ti", "1000000")
			n.Labels["zone"] = fmt.Sprint(i % 3)
		}))
		if before != nil {
			pod := newPod(fmt.Sprint("before-", i), before)
			pod.Spec.NodeName = fmt.Sprint("node-", i)
			s.podChanged(nil, pod)
		}
	}
	pods := make([]*v1.Pod, b.N)
	for i := range pods {
		pods[i] = newPod(fmt.Sprint("p", i), cpu("10m"), change)
	}
	for _, pod := range pods {
		s.podChanged(nil, pod)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	began := cpuTime()
	go func() { done <- s.Run(ctx) }()
	for range b.N {
		<-binder.bound
	}
	b.ReportMetric(float64(cpuTime()-began)/float64(time.Microsecond)/float64(b.N), "cpu-µs/pod")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
	b.StopTimer()
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
