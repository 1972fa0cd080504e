// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"fmt"
	"math/rand/v2"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/scheduler/framework"
)

func node(name, zone string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelTopologyZone: zone}}}
}

func podOn(name, node string) *framework.PodInfo {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	pod.Spec.NodeName = node
	pod.Spec.Containers = []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}}}}
	return framework.NewPodInfo(pod)
}

// Whatever happened, a snapshot brought up to date says what the cache knows.
func TestSnapshotFollowsCache(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c, snapshot := New(), framework.NewSnapshot()
	nodes, pods := make(map[string]bool), make(map[string]string)
	for range 5000 {
		n, p := fmt.Sprint("n", r.IntN(5)), fmt.Sprint("p", r.IntN(20))
		switch r.IntN(6) {
		case 0:
			c.SetNode(node(n, fmt.Sprint(r.IntN(2))))
			nodes[n] = true
		case 1:
			c.RemoveNode(node(n, ""))
			delete(nodes, n)
		case 2:
			c.SetPod(podOn(p, n))
			pods[p] = n
		case 3:
			c.RemovePod(podOn(p, n).Pod)
			delete(pods, p)
		case 4:
			if err := c.Assume(podOn(p, n)); (err == nil) != (pods[p] == "") {
				t.Fatalf("Assume = %v for a pod on %q", err, pods[p])
			} else if err == nil {
				c.Forget(podOn(p, n).Pod)
			}
		case 5:
			c.Forget(podOn(p, n).Pod) // it is not assumed: nothing happens
		}
		if r.IntN(3) > 0 {
			continue
		}
		c.UpdateSnapshot(snapshot)
		if len(snapshot.Nodes) != len(nodes) || len(snapshot.ByName) != len(nodes) {
			t.Fatalf("the snapshot has %d nodes (%d by name), want %d", len(snapshot.Nodes), len(snapshot.ByName), len(nodes))
		}
		for _, info := range snapshot.Nodes {
			want := 0
			for _, on := range pods {
				if on == info.Node.Name {
					want++
				}
			}
			if len(info.Pods) != want || info.Requested.MilliCPU != int64(want)*1000 || snapshot.ByName[info.Node.Name] != info {
				t.Fatalf("node %s has %d pods that request %dm, want %d", info.Node.Name, len(info.Pods), info.Requested.MilliCPU, want)
			}
		}
	}
}

func TestZonesTakeTurns(t *testing.T) {
	c, snapshot := New(), framework.NewSnapshot()
	for i, zone := range []string{"a", "a", "a", "b", "c"} {
		c.SetNode(node(fmt.Sprint("n", i), zone))
	}
	c.UpdateSnapshot(snapshot)
	got := ""
	for _, n := range snapshot.Nodes {
		got += n.Node.Labels[v1.LabelTopologyZone]
	}
	if got != "abcaa" {
		t.Errorf("zones come as %s, want abcaa", got)
	}
}

// A snapshot is not made anew for what matters to no decision; the cache has the latest version all the same.
func TestConfirmedPod(t *testing.T) {
	c, snapshot := New(), framework.NewSnapshot()
	c.SetNode(node("n", ""))
	if err := c.Assume(podOn("p", "n")); err != nil {
		t.Fatal(err)
	}
	c.UpdateSnapshot(snapshot)
	confirmed := podOn("p", "n")
	confirmed.Pod.ResourceVersion = "2"
	c.SetPod(confirmed)
	if len(c.dirty) > 0 || c.IsAssumed(confirmed.Pod) || c.nodes["n"].Pods[0] != confirmed {
		t.Errorf("after the confirmation %v are dirty, assumed is %t, the pod is %v", c.dirty, c.IsAssumed(confirmed.Pod), c.nodes["n"].Pods[0].Pod)
	}
	labelled := podOn("p", "n")
	labelled.Pod.Labels = map[string]string{"a": "b"}
	c.SetPod(labelled)
	c.UpdateSnapshot(snapshot)
	if got := snapshot.Nodes[0].Pods; len(got) != 1 || got[0] != labelled {
		t.Errorf("after a change of labels the node has %v", got)
	}
}
