// SPDX-License-Identifier: Apache-2.0

package nodelifecycle

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/skiff-k8s/skiff/controllers/controllertest"
	"github.com/skiff-k8s/skiff/controllers/metrics"
)

func newNode(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: "linux"}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}},
	}
}

func taintsOf(node *corev1.Node) string {
	var taints []string
	for _, t := range node.Spec.Taints {
		taints = append(taints, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
	}
	slices.Sort(taints)
	return strings.Join(taints, " ")
}

func run(t *testing.T, nodes ...*corev1.Node) *controllertest.Cluster {
	t.Helper()
	cluster := controllertest.New(t)
	for _, node := range nodes {
		if _, err := cluster.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(cluster.Clientset, cluster.Factory, cluster.Events, metrics.New().Nodes)
	if err != nil {
		t.Fatal(err)
	}
	cluster.Run(c)
	return cluster
}

func get(t *testing.T, cluster *controllertest.Cluster, name string) *corev1.Node {
	t.Helper()
	node, err := cluster.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func renew(t *testing.T, cluster *controllertest.Cluster, name string) {
	t.Helper()
	renewAt(t, cluster, name, time.Now())
}

// renewAt is renew by the clock of the node.
func renewAt(t *testing.T, cluster *controllertest.Cluster, name string, at time.Time) {
	t.Helper()
	now := metav1.NewMicroTime(at)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}}
	leases := cluster.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if _, err := leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		if _, err := leases.Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A node that renews its Lease is left alone; after 50 s of silence its conditions are Unknown, and it gets taints.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newNode("alive", corev1.ConditionTrue), newNode("silent", corev1.ConditionTrue))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "silent"}}
		pod, _ = cluster.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		cluster.SetReady(pod, true)
		for range 4 { // 40 s
			time.Sleep(10 * time.Second)
			renew(t, cluster, "alive")
		}
		synctest.Wait()
		if got := taintsOf(get(t, cluster, "silent")); got != "" {
			t.Errorf("taints after 40s: %q", got)
		}
		for range 2 {
			time.Sleep(10 * time.Second)
			renew(t, cluster, "alive")
		}
		synctest.Wait()
		node := get(t, cluster, "silent")
		ready := condition(&node.Status, corev1.NodeReady)
		if ready.Status != corev1.ConditionUnknown || ready.Reason != "NodeStatusUnknown" || ready.Message != "Kubelet stopped posting node status." {
			t.Errorf("Ready is %+v", ready)
		}
		if got := taintsOf(node); got != "unreachable:NoExecute unreachable:NoSchedule" {
			t.Errorf("taints after 60s: %q", got)
		}
		pod, _ = cluster.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if pod.Status.Conditions[0].Status != corev1.ConditionFalse {
			t.Error("the pod of the silent node is still ready")
		}
		if got := taintsOf(get(t, cluster, "alive")); got != "" {
			t.Errorf("taints of the other: %q", got)
		}
		if got := get(t, cluster, "alive").Labels["beta.kubernetes.io/os"]; got != "linux" {
			t.Errorf("legacy label is %q", got)
		}
	})
}

// A node whose clock is set back is as alive as before; one that writes its Lease without renewing it is not.
func TestClockSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newNode("alive", corev1.ConditionTrue), newNode("back", corev1.ConditionTrue), newNode("stuck", corev1.ConditionTrue))
		stuck := time.Now()
		for i := range 12 { // two minutes
			renew(t, cluster, "alive")
			renewAt(t, cluster, "stuck", stuck)
			at := time.Now()
			if i > 1 {
				at = at.Add(-time.Hour)
			}
			renewAt(t, cluster, "back", at)
			time.Sleep(10 * time.Second)
			synctest.Wait()
		}
		for name, want := range map[string]string{"alive": "", "back": "", "stuck": "unreachable:NoExecute unreachable:NoSchedule"} {
			if got := taintsOf(get(t, cluster, name)); got != want {
				t.Errorf("%s has taints %q, want %q", name, got, want)
			}
		}
	})
}

// When not one node is ready, it is rather something else that is broken: nothing is evicted.
func TestAllNodesDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newNode("a", corev1.ConditionTrue), newNode("b", corev1.ConditionTrue))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		for _, name := range []string{"a", "b"} {
			if got := taintsOf(get(t, cluster, name)); got != "unreachable:NoSchedule" {
				t.Errorf("taints of %s: %q", name, got)
			}
		}
	})
}

// A node that never says anything gets conditions after 60 s.
func TestNodeThatNeverReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := newNode("mute", "")
		node.Status.Conditions = nil
		cluster := run(t, node)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		conditions := get(t, cluster, "mute").Status.Conditions
		if len(conditions) != 4 || conditions[0].Reason != "NodeStatusNeverUpdated" {
			t.Errorf("conditions are %+v", conditions)
		}
	})
}

// NoExecute taints come at 0.1 per second in a zone.
func TestRateOfTaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := []*corev1.Node{newNode("ready", corev1.ConditionTrue)}
		for i := range 2 {
			nodes = append(nodes, newNode(fmt.Sprint("down-", i), corev1.ConditionFalse))
		}
		cluster := run(t, nodes...)
		count := func() (n int) {
			for _, node := range nodes[1:] {
				if strings.Contains(taintsOf(get(t, cluster, node.Name)), "not-ready:NoExecute") {
					n++
				}
			}
			return n
		}
		if got := count(); got != 1 {
			t.Errorf("%d nodes at once, want 1", got)
		}
		for range 2 {
			time.Sleep(6 * time.Second)
			renew(t, cluster, "ready")
		}
		synctest.Wait()
		if got := count(); got != 2 {
			t.Errorf("%d nodes after 12s, want 2", got)
		}
	})
}

func TestTaintsFollowConditions(t *testing.T) {
	node := newNode("n", corev1.ConditionTrue)
	node.Spec.Unschedulable = true
	node.Spec.Taints = []corev1.Taint{
		{Key: "example.com/mine", Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute},
	}
	node.Status.Conditions = append(node.Status.Conditions,
		corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue},
		corev1.NodeCondition{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse})
	taints, _ := withTaints(node, verdict{}, nil, time.Now())
	node.Spec.Taints = taints
	if got, want := taintsOf(node), "example.com/mine:NoSchedule memory-pressure:NoSchedule out-of-service:NoExecute unschedulable:NoSchedule"; got != want {
		t.Errorf("taints are %q, want %q", got, want)
	}
}

func TestJudge(t *testing.T) {
	zone := func(name string, ready, down int) (nodes []*corev1.Node) {
		for i := range ready + down {
			status := corev1.ConditionTrue
			if i >= ready {
				status = corev1.ConditionFalse
			}
			node := newNode(fmt.Sprint(name, i), status)
			node.Labels[corev1.LabelTopologyZone] = name
			nodes = append(nodes, node)
		}
		return nodes
	}
	for _, tc := range []struct {
		what    string
		nodes   []*corev1.Node
		allDown bool
		qps     float32 // of the first node's zone
	}{
		{"two of three", zone("a", 1, 2), false, normalQPS},
		{"most of a small zone", zone("a", 2, 3), false, 0},
		{"most of a large zone", zone("a", 20, 40), false, reducedQPS},
		{"a whole zone, but not all", append(zone("a", 0, 5), zone("b", 1, 0)...), false, normalQPS},
		{"everything", append(zone("a", 0, 2), zone("b", 0, 2)...), true, normalQPS},
	} {
		v := judge(tc.nodes)
		if got := v.qps[zoneOf(tc.nodes[0])]; v.allDown != tc.allDown || got != tc.qps {
			t.Errorf("%s: all down %t, %v per second; want %t, %v", tc.what, v.allDown, got, tc.allDown, tc.qps)
		}
	}
}

// The pods of a node that says that it is not ready are not ready either, even if that cannot be written at once.
func TestPodsOfNodeThatIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := run(t, newNode("n", corev1.ConditionTrue), newNode("other", corev1.ConditionTrue))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: corev1.PodSpec{NodeName: "n"}}
		pod, err := cluster.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cluster.SetReady(pod, true)
		tries := 0
		cluster.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			tries++
			return tries < 3, nil, errors.New("not now")
		})
		node := get(t, cluster, "n")
		node.Status.Conditions[0].Status = corev1.ConditionFalse
		if _, err := cluster.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			renew(t, cluster, "n")
			renew(t, cluster, "other")
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		if got := cluster.Pods()[0].Status.Conditions[0].Status; got != corev1.ConditionFalse {
			t.Errorf("after %d tries the pod's condition Ready is %s", tries, got)
		}
	})
}
