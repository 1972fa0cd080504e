// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/rest"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/metrics/pkg/apis/metrics"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	"k8s.io/utils/ptr"
)

// kubelets have used half a CPU ever since the start, and know it or do not answer.
type kubelets struct {
	mu    sync.Mutex
	start time.Time
	asked map[string]int // by node
	down  map[string]bool
}

func (k *kubelets) Summary(_ context.Context, node string) (*stats.Summary, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asked == nil {
		k.asked = map[string]int{}
	}
	k.asked[node]++
	if k.down[node] {
		return nil, errors.New("connection refused")
	}
	cpu := func(cores float64) *stats.CPUStats {
		return &stats.CPUStats{Time: metav1.Now(), UsageCoreNanoSeconds: ptr.To(uint64(cores * float64(time.Since(k.start))))}
	}
	memory := &stats.MemoryStats{Time: metav1.Now(), WorkingSetBytes: ptr.To[uint64](64 << 20)}
	start := metav1.NewTime(k.start)
	return &stats.Summary{
		Node: stats.NodeStats{NodeName: node, StartTime: start, CPU: cpu(0.75), Memory: memory},
		Pods: []stats.PodStats{{
			PodRef:     stats.PodReference{Name: "web", Namespace: "ns", UID: "uid-" + node},
			Containers: []stats.ContainerStats{{Name: "c", StartTime: start, CPU: cpu(0.5), Memory: memory}, {Name: "ended", StartTime: start}},
		}},
	}, nil
}

func indexer(objects ...any) cache.Indexer {
	out := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	for _, o := range objects {
		_ = out.Add(o)
	}
	return out
}

func serve(k *kubelets) map[string]genericrest.Storage {
	web := func(name, node string, phase corev1.PodPhase) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "uid-a", Labels: map[string]string{"app": name}},
			Spec:       corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase},
		}
	}
	node := func(name string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
		}}
	}
	return Storages(Deps{
		Nodes: corelisters.NewNodeLister(indexer(node("a", "True"), node("b", "True"), node("c", "Unknown"))),
		Pods:  corelisters.NewPodLister(indexer(web("web", "a", corev1.PodRunning), web("done", "a", corev1.PodSucceeded), web("lost", "b", corev1.PodRunning))),
		Usage: NewUsage(k),
	})
}

func list(t *testing.T, storage genericrest.Storage, options *internalversion.ListOptions) runtime.Object {
	t.Helper()
	out, err := storage.(genericrest.Lister).List(request.WithNamespace(t.Context(), "ns"), options)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kubelets{start: time.Now(), down: map[string]bool{"b": true}}
		time.Sleep(time.Hour)
		storages := serve(k)
		nodes := list(t, storages["nodes"], nil).(*metrics.NodeMetricsList).Items
		if len(nodes) != 1 || nodes[0].Usage.Cpu().String() != "750m" || nodes[0].Usage.Memory().String() != "64Mi" || nodes[0].Window.Duration != firstGap {
			t.Errorf("nodes = %+v, want node a with 750m in the last second", nodes)
		}
		if k.asked["c"] > 0 {
			t.Error("a node was asked that is not ready")
		}
		pods := list(t, storages["pods"], nil).(*metrics.PodMetricsList).Items
		if len(pods) != 1 || pods[0].Name != "web" || len(pods[0].Containers) != 1 || pods[0].Containers[0].Usage.Cpu().String() != "500m" {
			t.Errorf("pods = %+v, want web with 500m", pods)
		}
		none := list(t, storages["pods"], &internalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{"app": "db"})})
		if n := len(none.(*metrics.PodMetricsList).Items); n != 0 {
			t.Errorf("%d pods of another label", n)
		}
		ctx := request.WithNamespace(t.Context(), "ns")
		if _, err := storages["pods"].(genericrest.Getter).Get(ctx, "web", nil); err != nil {
			t.Errorf("get web: %v", err)
		}
		if _, err := storages["pods"].(genericrest.Getter).Get(ctx, "done", nil); err == nil {
			t.Error("get done: want NotFound")
		}
	})
}

// Who asks often makes the kubelets be asked every ten seconds; who asks again gets what was used since.
func TestKubeletsAreAskedOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kubelets{start: time.Now()}
		usage := NewUsage(k)
		ask := func() used { return usage.of(t.Context(), []string{"a"})["a"] }
		ask()
		ask()
		if k.asked["a"] != 2 { // to see what changes
			t.Errorf("asked %d times for a first answer, want 2", k.asked["a"])
		}
		time.Sleep(15 * time.Second)
		if u := ask(); k.asked["a"] != 3 || u.node.window != 15*time.Second {
			t.Errorf("asked %d times, window %s; want one more, and 15s", k.asked["a"], u.node.window)
		}
		time.Sleep(time.Hour)
		if u := ask(); k.asked["a"] != 5 || u.node.window != firstGap {
			t.Errorf("asked %d times, window %s; want two more, and no average of an hour", k.asked["a"], u.node.window)
		}
	})
}

func TestDifference(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds int, nanos uint64, rate *uint64) *stats.CPUStats {
		return &stats.CPUStats{Time: metav1.NewTime(start.Add(time.Duration(seconds) * time.Second)), UsageCoreNanoSeconds: &nanos, UsageNanoCores: rate}
	}
	memory := &stats.MemoryStats{WorkingSetBytes: ptr.To[uint64](1)}
	for _, test := range []struct {
		name        string
		before, now *stats.CPUStats
		memory      *stats.MemoryStats
		want        uint64
		ok          bool
	}{
		{"two readings", at(10, 1e9, nil), at(20, 6e9, nil), memory, 5e8, true},
		{"the first reading", nil, at(10, 1e9, nil), memory, 1e8, true},
		{"twice the same reading", at(10, 1e9, nil), at(10, 1e9, nil), memory, 0, false},
		{"twice the same reading of one that knows", at(10, 1e9, nil), at(10, 1e9, ptr.To[uint64](7)), memory, 7, true},
		{"a counter that went back", at(10, 2e9, nil), at(20, 1e9, nil), memory, 0, false},
		{"no memory", at(10, 1e9, nil), at(20, 6e9, nil), nil, 0, false},
		{"nothing", nil, nil, memory, 0, false},
	} {
		if got, ok := difference(test.before, test.now, test.memory, start); got.nanoCPUs != test.want || ok != test.ok {
			t.Errorf("%s: %d, %v; want %d, %v", test.name, got.nanoCPUs, ok, test.want, test.ok)
		}
	}
}

// Both versions carry what was measured.
func TestVersions(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	in := &metrics.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Window: metav1.Duration{Duration: time.Second}}
	for _, gv := range scheme.PrioritizedVersionsForGroup(metricsv1.GroupName) {
		out, err := scheme.ConvertToVersion(in, gv)
		if err != nil || out.GetObjectKind().GroupVersionKind() != gv.WithKind("PodMetrics") {
			t.Errorf("%s: %v, %v", gv, out, err)
		}
	}
}
