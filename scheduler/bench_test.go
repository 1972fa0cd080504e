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
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	"github.com/skiff-k8s/skiff/scheduler/extender"
	"github.com/skiff-k8s/skiff/scheduler/framework"
	"github.com/skiff-k8s/skiff/scheduler/plugins"
)

// BenchmarkAlone measures the scheduler alone: no bindings are written, but all that would follow from them happens.
// Once (-benchtime 1x) is enough.
func BenchmarkAlone(b *testing.B) {
	for i := range Shapes {
		for _, nodes := range []int{100, 1000, 5000, 15000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", Shapes[i].Name, nodes), func(b *testing.B) {
				for range b.N {
					runAlone(b, &Shapes[i], nodes)
				}
			})
		}
	}
}

// loneCluster is a scheduler whose cluster is nothing but its own informers.
type loneCluster struct {
	testing.TB
	*Scheduler
	registry metrics.KubeRegistry
	known    cache.Indexer // its pods
	bound    chan *v1.Pod
}

// Name makes the cluster a Binder.
func (*loneCluster) Name() string { return "LoneCluster" }

// Bind has the pod come back bound.
func (c *loneCluster) Bind(_ context.Context, assumed *v1.Pod, nodeName string) *framework.Status {
	pod, err := c.pods.Pods(assumed.Namespace).Get(assumed.Name)
	if err != nil {
		return framework.AsStatus(err)
	}
	c.update(pod, func(p *v1.Pod) { p.Spec.NodeName = nodeName })
	c.bound <- pod
	return nil
}

// update changes a pod as the API server would.
func (c *loneCluster) update(pod *v1.Pod, change func(*v1.Pod)) {
	now := *pod // shallow
	change(&now)
	if err := c.known.Update(&now); err != nil {
		c.Error(err)
	}
	c.podChanged(pod, &now)
}

func (c *loneCluster) add(pods []*v1.Pod) {
	for _, pod := range pods {
		if err := c.known.Update(pod); err != nil {
			c.Error(err)
		}
		c.podChanged(nil, pod)
	}
}

// delete is how preemption deletes pods.
func (c *loneCluster) delete(action clienttesting.Action) (bool, runtime.Object, error) {
	d := action.(clienttesting.DeleteAction)
	if pod, err := c.pods.Pods(d.GetNamespace()).Get(d.GetName()); err == nil {
		if err := c.known.Delete(pod); err != nil {
			return true, nil, err
		}
		c.podDeleted(pod)
	}
	return true, nil, nil
}

func newLoneCluster(b testing.TB, pods int, extenders ...*extender.Extender) *loneCluster {
	c := &loneCluster{
		TB: b, registry: metrics.NewKubeRegistry(), bound: make(chan *v1.Pod, pods),
		known: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}),
	}
	client := fake.NewClientset()
	client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, &v1.Pod{}, nil })
	client.PrependReactor("delete", "pods", c.delete)
	s, err := New(Config{Profiles: []Profile{{SchedulerName: v1.DefaultSchedulerName, Plugins: withBinder(c)}}, Extenders: extenders, Metrics: c.registry},
		client, informers.NewSharedInformerFactory(client, 0), silent{})
	if err != nil {
		b.Fatal(err)
	}
	s.synced, s.pods = nil, corelisters.NewPodLister(c.known)
	c.Scheduler = s
	return c
}

// withBinder is the default profile with another Binder.
func withBinder(binder framework.Plugin) []plugins.Entry {
	entries := plugins.Default()
	return append(slices.Clip(entries[:len(entries)-1]), plugins.Entry{New: func(*framework.Handle) (framework.Plugin, error) { return binder, nil }})
}

// silent records no events.
type silent struct{}

func (silent) Eventf(_, _ runtime.Object, _, _, _, _ string, _ ...any) {}

// CPUTime is what the process has used.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // there is nothing that could be wrong
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// runAlone reports pods per second, the CPU time of each (which says more on a machine that others use too), and the 99th percentile
// of how long an attempt took.
func runAlone(b *testing.B, shape *Shape, nodes int) {
	b.StopTimer()
	measured := shape.Pods.Make(nodes)
	c := newLoneCluster(b, len(measured))
	for _, node := range shape.Nodes(nodes) {
		c.nodeChanged(nil, node)
	}
	waiting := 0
	for i := range shape.Before {
		before := shape.Before[i].Make(nodes)
		for j, pod := range before {
			pod.Name, pod.UID = fmt.Sprint(pod.Name, "-", i), pod.UID+"-"
			if !shape.Before[i].NoPlace {
				pod.Spec.NodeName = NodeName(j % nodes)
			} else {
				waiting++
			}
		}
		c.add(before)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	for tried := -1; tried < waiting; time.Sleep(10 * time.Millisecond) {
		_, _, tried, _ = c.queue.Pending()
	}
	b.ReportAllocs()
	c.metrics.AttemptDuration.Reset()
	began := CPUTime()
	b.StartTimer()
	go c.add(measured)
	for range measured {
		<-c.bound
	}
	b.StopTimer()
	used := CPUTime() - began
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(used)/float64(time.Microsecond)/float64(len(measured)), "cpu-µs/pod")
	b.ReportMetric(float64(len(measured))*float64(b.N)/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric(1000*Attempts(b, c.registry, 0.99), "p99-ms")
	b.ReportMetric(0, "ns/op")
}

// Decisions counts how often a node was looked for.
func Decisions(b testing.TB, g metrics.Gatherer) uint64 {
	b.Helper()
	families, err := g.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "scheduler_scheduling_algorithm_duration_seconds" {
			return f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return 0
}

// Attempts returns a quantile of the duration of attempts that ended with a binding, in seconds.
func Attempts(b testing.TB, g metrics.Gatherer, quantile float64) float64 {
	b.Helper()
	h, err := testutil.GetHistogramVecFromGatherer(g, "scheduler_scheduling_attempt_duration_seconds", map[string]string{"result": "scheduled"})
	if err != nil {
		b.Fatal(err)
	}
	return h.Quantile(quantile)
}
