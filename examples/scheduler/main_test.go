// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/testenv"
)

// The scheduler places the pods that name it, on the node with the fullest battery, and none on empty ones until one is charged.
func TestBattery(t *testing.T) {
	env := testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: 3}))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, env.Config) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	pods, nodes := env.Client.CoreV1().Pods("default"), env.Client.CoreV1().Nodes()
	charge := func(node string, percent int) {
		patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:"%d"}}}`, chargeLabel, percent)
		eventually(t, "node "+node+" is labelled", func() bool {
			_, err := nodes.Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{})
			return err == nil
		})
	}
	create := func(name string) {
		_, err := pods.Create(ctx, &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1.PodSpec{SchedulerName: "battery-scheduler", Containers: []v1.Container{{Name: "c", Image: "img"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(name string) *v1.Pod {
		pod, err := pods.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	for i, percent := range []int{10, 0, 15} {
		charge(fmt.Sprint("simulated-", i), percent)
	}
	create("first")
	eventually(t, "the pod is said to have no node", func() bool {
		for _, c := range get("first").Status.Conditions {
			if c.Type == v1.PodScheduled && strings.Contains(c.Message, "3 node(s) had a low battery") {
				return true
			}
		}
		return false
	})
	charge("simulated-1", 40)
	eventually(t, "the pod is on the charged node", func() bool { return get("first").Spec.NodeName == "simulated-1" })
	charge("simulated-2", 100)
	for i := range 5 { // the scheduler hears of the charge in its time
		name := fmt.Sprint("later-", i)
		create(name)
		eventually(t, "the pod has a node", func() bool { return get(name).Spec.NodeName != "" })
		if get(name).Spec.NodeName == "simulated-2" {
			return
		}
	}
	t.Error("five pods went to a node that is less than half full, and none to the full one")
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return holds(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
