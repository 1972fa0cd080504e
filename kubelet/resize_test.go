// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/allocation"
	"github.com/skiff-k8s/skiff/kubelet/containers"
	"github.com/skiff-k8s/skiff/kubelet/cpus"
	"github.com/skiff-k8s/skiff/kubelet/memory"
)

// amount is of CPU and memory, requested and not limited.
func amount(cpu, memory string) v1.ResourceRequirements {
	return v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}}
}

// guaranteed is requested and limited.
func guaranteed(cpu, memory string) v1.ResourceRequirements {
	r := amount(cpu, memory)
	r.Limits = r.Requests.DeepCopy()
	return r
}

func sized(name string, r v1.ResourceRequirements) *v1.Pod {
	pod := testPod(name, v1.Container{Name: "app", Resources: r})
	pod.UID = types.UID(name)
	return pod
}

// Who asks for no more than it has comes first, then the important, those with guarantees, and those that have waited.
func TestOrderOfWishes(t *testing.T) {
	began := time.Now()
	one := func(name string, r, granted v1.ResourceRequirements, priority int32, waited time.Duration) wish {
		pod := sized(name, r)
		pod.Spec.Priority = ptr.To(priority)
		return wish{pod: pod, granted: sized(name, granted), since: began.Add(-waited)}
	}
	little, much := amount("1", "1Mi"), amount("2", "1Mi")
	want := []wish{
		one("smaller", little, much, -5, 0),
		one("important", much, little, 7, 0),
		one("sure", guaranteed("2", "1Mi"), guaranteed("1", "1Mi"), 0, 0),
		one("patient", much, little, 0, time.Minute),
		one("a", much, little, 0, 0),
		one("b", amount("1", "2Mi"), little, 0, 0),
	}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareWishes)
	for i := range want {
		if got[i].pod.UID != want[i].pod.UID {
			t.Errorf("place %d: %s, want %s", i, got[i].pod.UID, want[i].pod.UID)
		}
	}
}

// CPUs and memory that a container has for itself are not resized.
func TestNeverFits(t *testing.T) {
	withCPUs, withMemory := &Kubelet{cpus: &cpus.Manager{}, runtime: &containers.Runtime{}}, &Kubelet{memory: &memory.Manager{}, runtime: &containers.Runtime{}}
	for _, c := range []struct {
		k           *Kubelet
		wants, has  v1.ResourceRequirements
		want        string
		description string
	}{
		{withCPUs, guaranteed("2", "1Mi"), guaranteed("1", "1Mi"), `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`, "CPU of its own"},
		{withCPUs, guaranteed("1", "2Mi"), guaranteed("1", "1Mi"), "", "memory beside CPUs of its own"},
		{withCPUs, amount("2", "1Mi"), amount("1", "1Mi"), "", "shared CPUs"},
		{withMemory, guaranteed("1", "2Mi"), guaranteed("1", "1Mi"), `Resize is infeasible for Guaranteed Pods alongside Memory Manager policy "Static"`, "memory of its own"},
		{withMemory, guaranteed("2", "1Mi"), guaranteed("1", "1Mi"), "", "CPU beside memory of its own"},
		{&Kubelet{runtime: &containers.Runtime{}}, guaranteed("2", "2Mi"), guaranteed("1", "1Mi"), "", "nothing of its own"},
	} {
		if got, _ := c.k.neverFits(sized("web", c.wants), sized("web", c.has)); got != c.want {
			t.Errorf("%s: %q, want %q", c.description, got, c.want)
		}
	}
}

// What pods were granted by an earlier process counts before this one has looked at them, and what they still have counts, too.
func TestRivalsOfAnEarlierProcess(t *testing.T) {
	root := t.TempDir()
	before := allocation.New(root)
	for _, cpu := range []string{"3", "1"} { // the change to 1 was not made yet
		if err := before.Allocate(sized("old", amount(cpu, "1Mi"))); err != nil {
			t.Fatal(err)
		}
	}
	k := &Kubelet{grants: allocation.New(root), workers: map[types.UID]*worker{}}
	for _, name := range []string{"old", "new", "ended"} {
		pod := sized(name, amount("9", "1Mi"))
		if name == "ended" {
			pod.Status.Phase = v1.PodSucceeded
			if err := before.Allocate(pod); err != nil {
				t.Fatal(err)
			}
		}
		k.workers[pod.UID] = &worker{uid: pod.UID, pod: pod}
	}
	for _, pod := range k.rivals("new") {
		if pod.Name != "old" || pod.Spec.Containers[0].Resources.Requests.Cpu().Value() != 3 {
			t.Errorf("%s counts with %v", pod.Name, pod.Spec.Containers[0].Resources.Requests)
		}
	}
	if n := len(k.rivals("new")); n != 1 {
		t.Errorf("%d pods count, want 1", n)
	}
}

func (b *bench) resize(name string, to v1.ResourceRequirements) {
	b.t.Helper()
	pod := b.get(name)
	pod.Spec.Containers[0].Resources = to
	if _, err := b.client.CoreV1().Pods("default").UpdateResize(b.t.Context(), name, pod, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// When there is room again, the pod that comes first by its class has what it waits for, and others wait on. What one gives
// back is there for the next.
func TestResizeInOrder(t *testing.T) {
	b := newBench(t, "app:1")
	node, err := b.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	for end := time.Now().Add(20 * time.Second); err != nil || node.Status.Allocatable.Cpu().IsZero(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the node has no CPUs: %v", err)
		}
		node, err = b.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	}
	part := func(tenths int64) string {
		return fmt.Sprintf("%dm", node.Status.Allocatable.Cpu().MilliValue()*tenths/10)
	}
	waiting := []string{"w1", "w2", "w3"}
	for _, name := range waiting {
		b.create(sized(name, amount(part(1), "1Mi")))
	}
	b.create(sized("sure", guaranteed(part(1), "1Mi")))
	b.create(sized("filler", amount(part(5), "1Mi")))
	for _, name := range append([]string{"sure", "filler"}, waiting...) {
		b.eventually(name+" is ready", func() bool { return b.ready(name) })
	}
	deferred := func(name string) bool { return resizeConditions(b.get(name)) == "PodResizePending=Deferred " }
	has := func(name string, tenths int64) bool {
		pod := b.get(name)
		q := pod.Status.ContainerStatuses[0].AllocatedResources.Cpu()
		return q.Equal(resource.MustParse(part(tenths))) && resizeConditions(pod) == ""
	}
	for _, name := range waiting {
		b.resize(name, amount(part(6), "1Mi"))
		b.eventually(name+" waits", func() bool { return deferred(name) })
	}
	b.resize("sure", guaranteed(part(6), "1Mi"))
	b.eventually("the guaranteed one waits", func() bool { return deferred("sure") })
	b.delete("filler", 0)
	b.eventually("the guaranteed one has what it waits for", func() bool { return has("sure", 6) })
	for _, name := range waiting {
		if !deferred(name) {
			t.Errorf("%s does not wait: %s", name, resizeConditions(b.get(name)))
		}
	}
	b.resize("sure", guaranteed(part(1), "1Mi"))
	b.eventually("the one that has waited longest is next", func() bool { return has("w1", 6) })
	if !deferred("w2") || !deferred("w3") {
		t.Error("others do not wait")
	}
	b.delete("w2", 1)
	b.gone("w2")
	m := b.kubelet.metrics.Resizes
	for _, c := range []struct {
		what string
		of   metrics.CounterMetric
		want float64
	}{
		{"accepted as a pod was removed", m.Accepted.WithLabelValues(podRemoved), 1},
		{"accepted as a pod was resized", m.Accepted.WithLabelValues(podResized), 1},
		{"asked for more CPU", m.Asked.WithLabelValues("cpu", "requests", "increase"), 4},
		{"asked for less CPU", m.Asked.WithLabelValues("cpu", "limits", "decrease"), 1},
		{"asked for other memory", m.Asked.WithLabelValues("memory", "requests", "increase"), 0},
	} {
		if got, err := testutil.GetCounterMetricValue(c.of); err != nil || got != c.want {
			t.Errorf("%s: %v, %v; want %v", c.what, got, err, c.want)
		}
	}
	for what, is := range map[string]struct {
		of   metrics.GaugeMetric
		want float64
	}{
		"deferred": {m.Pending.WithLabelValues("deferred", "normal"), 1}, "in progress": {m.InProgress, 0},
	} {
		if got, err := testutil.GetGaugeMetricValue(is.of); err != nil || got != is.want {
			t.Errorf("%s: %v, %v; want %v", what, got, err, is.want)
		}
	}
}

// A change that cannot be made, as the memory is in use, keeps no container from being started again.
func TestResizeFails(t *testing.T) {
	b := newBench(t, "app:1")
	b.create(testPod("web", v1.Container{Name: "app", Resources: guaranteed("100m", "64Mi")}, v1.Container{Name: "other", Resources: guaranteed("50m", "64Mi")}))
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	b.resize("web", guaranteed("100m", "512Ki")) // each container of the fake runtime uses 1 MiB
	b.eventually("the change fails", func() bool { return resizeConditions(b.get("web")) == "PodResizeInProgress=Error " })
	if !b.hadEvent("Warning ResizeError Pod resize error: {") {
		t.Error("nobody was told")
	}
	if err := b.cri.Exit("web/other", 1); err != nil {
		t.Fatal(err)
	}
	b.eventually("the other container is started again", func() bool {
		return b.get("web").Status.ContainerStatuses[1].RestartCount == 1 && b.ready("web")
	})
	b.resize("web", guaranteed("1m", "32Mi"))
	b.eventually("the runtime objects", func() bool {
		return slices.ContainsFunc(b.get("web").Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.PodResizeInProgress && c.Reason == v1.PodReasonError && strings.Contains(c.Message, "a tenth of a CPU")
		})
	})
	b.resize("web", guaranteed("100m", "32Mi"))
	b.eventually("another change is made", func() bool { return resizeConditions(b.get("web")) == "" })
}

// The resources of a pod as a whole follow its spec, and so do the limits of containers that leave them open: in place, or by a
// restart of those that ask for it.
func TestResizeWholePod(t *testing.T) {
	b := newBench(t, "app:1")
	whole := func(cpu, memory string) *v1.ResourceRequirements { return ptr.To(guaranteed(cpu, memory)) }
	pod := testPod("web",
		v1.Container{Name: "open", ResizePolicy: []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}},
		v1.Container{Name: "own", Resources: guaranteed("50m", "16Mi")})
	pod.Spec.Resources = whole("200m", "64Mi")
	b.create(pod)
	b.eventually("pod is ready", func() bool { return b.ready("web") })
	resize := func(to *v1.ResourceRequirements) {
		t.Helper()
		pod := b.get("web")
		pod.Spec.Resources = to
		if _, err := b.client.CoreV1().Pods("default").UpdateResize(t.Context(), "web", pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(cpu, memory string, restarts int32) func() bool {
		return func() bool {
			pod := b.get("web")
			s := pod.Status
			return s.ObservedGeneration == pod.Generation && resizeConditions(pod) == "" && b.ready("web") && s.Resources != nil &&
				s.AllocatedResources.Cpu().Equal(resource.MustParse(cpu)) && s.Resources.Limits.Memory().Equal(resource.MustParse(memory)) &&
				s.ContainerStatuses[0].RestartCount == restarts && s.ContainerStatuses[1].RestartCount == 0
		}
	}
	resize(whole("300m", "64Mi"))
	b.eventually("it has more CPU", has("300m", "64Mi", 0))
	if log := b.cri.Dump(); !slices.Contains(log, "resize web/open") || slices.Contains(log, "resize web/own") {
		t.Errorf("resized: %v; want the container that leaves its limits open", log)
	}
	resize(whole("300m", "128Mi"))
	b.eventually("it has more memory", has("300m", "128Mi", 1))
	resize(whole("200m", "64Mi"))
	b.eventually("it has less", has("200m", "64Mi", 2))
	resize(whole("900", "64Mi"))
	b.eventually("there is no room", func() bool { return resizeConditions(b.get("web")) == "PodResizePending=Deferred " })
}

// A critical pod grows at the cost of others.
func TestCriticalPodGrows(t *testing.T) {
	b := newBench(t, "app:1")
	pod := testPod("important", v1.Container{Name: "app", Resources: amount("100m", "1Mi")})
	pod.Namespace = "default"
	pod.Spec.Priority = ptr.To(int32(2000001000))
	b.create(pod)
	b.create(testPod("other", v1.Container{Name: "app", Resources: amount("100m", "1Mi")}))
	for _, name := range []string{"important", "other"} {
		b.eventually(name+" is ready", func() bool { return b.ready(name) })
	}
	node, err := b.client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := node.Status.Allocatable.Cpu().String()
	b.resize("important", amount(all, "1Mi"))
	b.eventually("the other one is ended", func() bool { return b.get("other").Status.Reason == preemptReason })
	b.eventually("it has what it asked for", func() bool {
		pod := b.get("important")
		return resizeConditions(pod) == "" && pod.Status.ContainerStatuses[0].AllocatedResources.Cpu().Equal(resource.MustParse(all))
	})
}
