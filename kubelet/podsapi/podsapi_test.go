// SPDX-License-Identifier: Apache-2.0

package podsapi

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	componentmetrics "k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/skiff-k8s/skiff/kubelet/metrics"
)

// node is one with some pods.
type node struct {
	mu      sync.Mutex
	pods    map[types.UID]*v1.Pod // guarded by mu
	decided bool                  // guarded by mu
	synced  bool                  // guarded by mu
}

func (n *node) set(uid types.UID, phase v1.PodPhase) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if phase == "" {
		delete(n.pods, uid)
		return
	}
	n.pods[uid] = &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "pod-" + string(uid), UID: uid},
		Status:     v1.PodStatus{Phase: phase, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}},
	}
}

func (n *node) view() Node {
	return Node{
		Pods: func() []*v1.Pod {
			n.mu.Lock()
			defer n.mu.Unlock()
			return slices.Collect(maps.Values(n.pods))
		},
		Pod: func(uid types.UID) (*v1.Pod, bool) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.pods[uid], n.pods[uid] != nil
		},
		Decided: func(types.UID) bool { n.mu.Lock(); defer n.mu.Unlock(); return n.decided },
		Synced:  func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.synced },
	}
}

// serve runs a Server until the test ends.
func serve(t *testing.T, n *node) (*Server, api.PodsClient) {
	t.Helper()
	root := t.TempDir()
	s := New(root, n.view(), metrics.New("n1"))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+filepath.Join(root, "pods-api", "pods-api.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, api.NewPodsClient(conn)
}

// told is a pod as a test reads it.
func told(t *testing.T, data []byte) string {
	t.Helper()
	if data == nil {
		return ""
	}
	pod := &v1.Pod{}
	if err := pod.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%s/%s %s", pod.Namespace, pod.Name, pod.Status.Phase)
	for _, c := range pod.Status.Conditions {
		text += fmt.Sprintf(" %s=%s%s", c.Type, c.Status, c.Reason)
	}
	return text
}

func TestListAndGet(t *testing.T) {
	n := &node{pods: map[types.UID]*v1.Pod{}}
	_, client := serve(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := client.ListPods(ctx, &api.ListPodsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("before the pods are known: %v", err)
	}
	n.set("b", v1.PodRunning)
	n.set("a", v1.PodPending)
	n.mu.Lock()
	n.synced = true
	n.mu.Unlock()
	if got, err := client.GetPod(ctx, &api.GetPodRequest{PodUID: "b"}); err != nil || told(t, got.GetPod()) != "default/pod-b Running Ready=FalseContainersNotReady" {
		t.Errorf("a pod whose status is of an earlier process: %v, %v", got, err)
	}
	n.mu.Lock()
	n.decided = true
	n.mu.Unlock()
	list, err := client.ListPods(ctx, &api.ListPodsRequest{})
	if err != nil || len(list.Pods) != 2 || told(t, list.Pods[0]) != "default/pod-a Pending Ready=True" || told(t, list.Pods[1]) != "default/pod-b Running Ready=True" {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := client.GetPod(ctx, &api.GetPodRequest{PodUID: "c"}); status.Code(err) != codes.NotFound {
		t.Errorf("a pod that is not there: %v", err)
	}
}

// Calls that come too fast are refused, and all others are counted.
func TestLimit(t *testing.T) {
	n := &node{pods: map[types.UID]*v1.Pod{}, synced: true}
	s, client := serve(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var missed, refused atomic.Int64
	var calls sync.WaitGroup
	for range 500 {
		calls.Go(func() {
			switch _, err := client.GetPod(ctx, &api.GetPodRequest{PodUID: "a"}); status.Code(err) {
			case codes.NotFound:
				missed.Add(1)
			case codes.ResourceExhausted:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if missed.Load() < 10 || refused.Load() == 0 {
		t.Errorf("%d calls are answered and %d refused, want at least 10 and some", missed.Load(), refused.Load())
	}
	for _, of := range []*componentmetrics.CounterVec{s.metrics.PodsAPI, s.metrics.PodsAPIOf["GetPod"]} {
		if got, err := testutil.GetCounterMetricValue(of.WithLabelValues("v1alpha1", "NotFound")); err != nil || int64(got) != missed.Load() {
			t.Errorf("%v calls are counted, want %d: %v", got, missed.Load(), err)
		}
	}
}

func TestWatch(t *testing.T) {
	n := &node{pods: map[types.UID]*v1.Pod{}, decided: true, synced: true}
	n.set("a", v1.PodRunning)
	s, client := serve(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := client.WatchPods(ctx, &api.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(want string) {
		t.Helper()
		event, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := event.Type.String() + " " + told(t, event.Pod); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	change := func(uid types.UID, phase v1.PodPhase) {
		n.set(uid, phase)
		s.Changed(uid)
	}
	next("ADDED default/pod-a Running Ready=True")
	next("INITIAL_SYNC_COMPLETE ")
	change("b", v1.PodPending)
	next("ADDED default/pod-b Pending Ready=True")
	change("b", v1.PodRunning)
	next("MODIFIED default/pod-b Running Ready=True")
	change("c", "") // never seen
	change("a", "")
	next("DELETED default/pod-a ")
	change("a", v1.PodFailed)
	next("ADDED default/pod-a Failed Ready=True")
}
