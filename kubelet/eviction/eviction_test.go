// SPDX-License-Identifier: Apache-2.0

package eviction

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

func pod(name, request string, priority int32) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{Priority: &priority, Containers: []v1.Container{{Name: "c"}}}}
	if request != "" {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(request)}
	}
	return p
}

// "The kubelet uses the following parameters to determine the pod eviction order: whether the pod's resource usage exceeds
// requests, pod priority, the pod's resource usage relative to requests."
func TestRankByMemory(t *testing.T) {
	pods := []*v1.Pod{pod("modest", "1Gi", 0), pod("important", "", 1000), pod("greedy", "100Mi", 0), pod("greedier", "", 0), pod("unknown", "", 5000)}
	rank(pods, map[types.UID]*Usage{
		"modest": {Memory: 900 << 20}, "important": {Memory: 800 << 20}, "greedy": {Memory: 300 << 20}, "greedier": {Memory: 250 << 20},
	}, MemoryAvailable)
	var got []string
	for _, p := range pods {
		got = append(got, p.Name)
	}
	if want := []string{"unknown", "greedier", "greedy", "important", "modest"}; !slices.Equal(got, want) {
		t.Errorf("order = %v, want %v", got, want)
	}
}

func TestVerdict(t *testing.T) {
	v := verdict(pod("web", "64Mi", 0), &Usage{Containers: map[string]ContainerUsage{"c": {Memory: 128 << 20}}}, MemoryAvailable, Threshold{Quantity: 100 << 20}, Observation{50 << 20, 1 << 30})
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 128Mi, request is 64Mi, has larger consumption of memory. "
	if v.Message != want || v.Annotations["offending_containers"] != "c" || v.Annotations["starved_resource"] != "memory" {
		t.Errorf("verdict = %+v, want %q", v, want)
	}
}

func TestMet(t *testing.T) {
	seen := map[Signal]Observation{
		MemoryAvailable: {99 << 20, 1 << 30}, NodeFSAvailable: {9, 100}, NodeFSInodesFree: {0, 0}, PIDAvailable: {1, 100},
	}
	if got, want := met(map[Signal]Threshold{MemoryAvailable: {Quantity: 100 << 20}, NodeFSAvailable: {Percent: 10}, NodeFSInodesFree: {Percent: 5}}, seen), []Signal{MemoryAvailable, NodeFSAvailable}; !slices.Equal(got, want) {
		t.Errorf("met = %v, want %v", got, want)
	}
}

func TestCritical(t *testing.T) {
	static := pod("static", "", 0)
	static.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	if !Critical(static) || !Critical(pod("system", "", systemCritical)) || Critical(pod("web", "", 1_000_000_000)) {
		t.Error("who is critical")
	}
}

// This machine can be read, and is not short of everything.
func TestObserve(t *testing.T) {
	seen := observe("/", "")
	for _, s := range []Signal{MemoryAvailable, NodeFSAvailable, PIDAvailable} {
		if o := seen[s]; o.Capacity <= 0 || o.Available > o.Capacity {
			t.Errorf("%s = %+v", s, o)
		}
	}
}

// A soft threshold counts after its grace, a hard one at once; what ran short is only over when enough was reclaimed.
func TestDue(t *testing.T) {
	m := New(Config{
		Hard: map[Signal]Threshold{MemoryAvailable: {Quantity: 100}}, Soft: map[Signal]Threshold{MemoryAvailable: {Quantity: 200}, PIDAvailable: {Percent: 10}},
		SoftGrace: map[Signal]time.Duration{MemoryAvailable: time.Minute, PIDAvailable: 2 * time.Minute}, MaxGrace: 30, Reclaim: map[Signal]Threshold{MemoryAvailable: {Quantity: 50}},
	}, nil, nil, nil)
	now := time.Now()
	for i, c := range []struct {
		after        time.Duration
		memory, pids int64
		signal       Signal
		grace        int64
	}{
		{0, 300, 50, "", 0},
		{10 * time.Second, 150, 5, "", 0},               // both are met
		{69 * time.Second, 150, 5, "", 0},               // not yet a minute
		{70 * time.Second, 150, 5, MemoryAvailable, 30}, // softly
		{71 * time.Second, 50, 5, MemoryAvailable, 1},   // hard
		{72 * time.Second, 140, 5, MemoryAvailable, 1},  // not enough was reclaimed
		{73 * time.Second, 240, 5, MemoryAvailable, 30}, // nor for the soft one
		{74 * time.Second, 260, 5, "", 0},               // now it was
		{75 * time.Second, 150, 5, "", 0},               // and its grace begins anew
		{131 * time.Second, 260, 5, PIDAvailable, 30},
	} {
		seen := map[Signal]Observation{MemoryAvailable: {c.memory, 1000}, PIDAvailable: {c.pids, 100}}
		signal, _, grace, _ := m.due(m.met(m.cfg.Hard, seen), m.met(m.cfg.Soft, seen), now.Add(c.after))
		if signal != c.signal || grace != c.grace {
			t.Errorf("%d: due is %q with %d s, want %q with %d s", i, signal, grace, c.signal, c.grace)
		}
	}
}

func TestOverDisk(t *testing.T) {
	p := pod("web", "", 0)
	if limitsDisk(p) {
		t.Error("a pod without limits is looked at")
	}
	size := resource.MustParse("1Mi")
	p.Spec.Volumes = []v1.Volume{
		{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &size}}},
		{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &size}}},
	}
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("10Mi")}
	if !limitsDisk(p) {
		t.Error("a pod with limits is not looked at")
	}
	for _, c := range []struct {
		usage Usage
		want  string
	}{
		{Usage{Disk: 10 << 20, Volumes: map[string]int64{"memory": 2 << 20, "v": 1 << 20}}, ""},
		{Usage{Volumes: map[string]int64{"v": 1<<20 + 1}}, `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `},
		{Usage{Disk: 10<<20 + 1}, "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "},
		{Usage{Containers: map[string]ContainerUsage{"c": {Disk: 11 << 20}}}, `Container c exceeded its local ephemeral storage limit "10Mi". `},
	} {
		if v, over := overDisk(p, &c.usage); v.Message != c.want || over != (c.want != "") {
			t.Errorf("%+v: %q, want %q", c.usage, v.Message, c.want)
		}
	}
}

// plenty is a node whose pods have used up what they may have together.
type plenty struct {
	Node
	ended []types.UID
}

func (*plenty) ImageFS(context.Context) string  { return "" }
func (*plenty) PressureChanged()                {}
func (*plenty) PodsMemory() (Observation, bool) { return Observation{50 << 20, 1 << 30}, true }
func (*plenty) Pods() []*v1.Pod                 { return []*v1.Pod{pod("modest", "1Gi", 0), pod("greedy", "", 0)} }
func (*plenty) Usage(_ context.Context, p *v1.Pod) (Usage, error) {
	return Usage{Memory: 500 << 20, Containers: map[string]ContainerUsage{"c": {Memory: 500 << 20}}}, nil
}

func (n *plenty) Evict(uid types.UID, v Verdict) <-chan struct{} {
	n.ended = append(n.ended, uid)
	gone := make(chan struct{})
	close(gone)
	return gone
}

// Pods that are at the limit of what they may have together are thinned out, though the machine has memory left.
func TestPodsMemory(t *testing.T) {
	n, events := &plenty{}, record.NewFakeRecorder(10)
	hard := map[Signal]Threshold{MemoryAvailable: {Quantity: 100 << 10}} // which no machine that runs tests is short of
	m := New(Config{Hard: hard, Root: "/", Transition: time.Minute}, n, &v1.ObjectReference{}, events)
	m.look(t.Context())
	if len(n.ended) > 0 {
		t.Errorf("%v had to go, with more left than is wanted", n.ended)
	}
	hard[PodsMemory] = Threshold{Quantity: 100 << 20}
	m = New(Config{Hard: hard, Root: "/", Transition: time.Minute}, n, &v1.ObjectReference{}, events)
	m.look(t.Context())
	if !slices.Equal(n.ended, []types.UID{"greedy"}) || !slices.Equal(m.Pressure(), []v1.NodeConditionType{v1.NodeMemoryPressure}) {
		t.Errorf("%v had to go, with %v", n.ended, m.Pressure())
	}
	<-events.Events
	want := "Warning Evicted The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 500Mi, request is 0, has larger consumption of memory. "
	if got := <-events.Events; !strings.HasPrefix(got, want) {
		t.Errorf("event %q, want %q", got, want)
	}
	if forPods(map[Signal]Threshold{MemoryAvailable: {Percent: 5}})[PodsMemory].Percent != 5 {
		t.Error("the threshold of the machine's memory is not that of the pods")
	}
}
