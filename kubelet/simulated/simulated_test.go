// SPDX-License-Identifier: Apache-2.0

package simulated_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/internal/parttest"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/testenv"
)

// run runs a fleet until stop is called, or the test ends.
func run(t testing.TB, env *testenv.Env, cfg simulated.Config) (stop func()) {
	t.Helper()
	return parttest.Run(t, env.Client, func(factory informers.SharedInformerFactory) (func(context.Context) error, error) {
		fleet, err := simulated.New(cfg, env.Client, factory)
		if err != nil {
			return nil, err
		}
		return fleet.Run, nil
	})
}

func boundPod(name, node string) *v1.Pod {
	none := int64(0)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeName: node, Containers: []v1.Container{{Name: "c", Image: "img"}}, TerminationGracePeriodSeconds: &none,
		},
	}
}

func isReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func TestFleet(t *testing.T) {
	env := testenv.Start(t)
	template, err := simulated.ParseTemplate(`
metadata: {name: "n-{{.Index}}", labels: {topology.kubernetes.io/zone: "z{{mod .Index 2}}"}}
spec: {taints: [{key: k, effect: NoSchedule}]}
status: {capacity: {cpu: "3", memory: 1Gi, pods: "5", example.com/gpu: "2"}}`)
	if err != nil {
		t.Fatal(err)
	}
	cfg := simulated.Config{Nodes: 3, Template: template}
	stop := run(t, env, cfg)
	var node *v1.Node
	parttest.Eventually(t, "the node is there", func() bool {
		node, err = env.Client.CoreV1().Nodes().Get(t.Context(), "n-2", metav1.GetOptions{})
		return err == nil
	})
	gpus, cpus := node.Status.Allocatable["example.com/gpu"], node.Status.Allocatable["cpu"]
	if len(node.Status.Conditions) == 0 {
		t.Fatalf("node has no conditions: %v", node.Status)
	}
	ready := node.Status.Conditions[len(node.Status.Conditions)-1]
	if node.Labels[v1.LabelTopologyZone] != "z0" || gpus.Value() != 2 || cpus.Value() != 3 || len(node.Spec.Taints) != 1 || ready.Type != v1.NodeReady || ready.Status != v1.ConditionTrue {
		t.Errorf("node is %v", node)
	}
	parttest.Eventually(t, "the node has a lease", func() bool {
		_, err = env.Client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(t.Context(), "n-2", metav1.GetOptions{})
		return err == nil
	})

	pods := env.Client.CoreV1().Pods("default")
	get := func(name string) *v1.Pod {
		pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	create := func(pod *v1.Pod) {
		if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create(boundPod("p", "n-0"))
	parttest.Eventually(t, "the pod is Ready", func() bool { return isReady(get("p")) })
	stop()

	// The next process takes the pod over, and deletes it in the end.
	was := get("p").Status
	run(t, env, cfg)
	create(boundPod("q", "n-1"))
	parttest.Eventually(t, "the second pod is Ready", func() bool { return isReady(get("q")) })
	if is := get("p").Status; is.PodIP != was.PodIP || is.ContainerStatuses[0].ContainerID != was.ContainerStatuses[0].ContainerID {
		t.Errorf("after a restart the pod is %v, was %v", is, was)
	}
	grace := int64(30)
	if err := pods.Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	parttest.Eventually(t, "the pod is gone", func() bool {
		_, err := pods.Get(t.Context(), "p", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// A lost node does nothing until it is found again.
func TestLostNode(t *testing.T) {
	env := testenv.Start(t)
	run(t, env, simulated.Config{Nodes: 2})
	nodes := env.Client.CoreV1().Nodes()
	parttest.Eventually(t, "the nodes are there", func() bool {
		list, err := nodes.List(t.Context(), metav1.ListOptions{LabelSelector: simulated.NodeLabel})
		return err == nil && len(list.Items) == 2
	})
	annotate := func(value string) {
		patch := fmt.Sprintf(`{"metadata": {"annotations": {%q: %s}}}`, simulated.LostAnnotation, value)
		if _, err := nodes.Patch(t.Context(), "simulated-0", "application/merge-patch+json", []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	annotate(`"yes"`)
	pods := env.Client.CoreV1().Pods("default")
	for name, node := range map[string]string{"on-lost": "simulated-0", "on-other": "simulated-1"} {
		if _, err := pods.Create(t.Context(), boundPod(name, node), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ready := func(name string) bool {
		pod, err := pods.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && isReady(pod)
	}
	parttest.Eventually(t, "the other pod is Ready", func() bool { return ready("on-other") })
	if ready("on-lost") {
		t.Error("a pod on a lost node is Ready")
	}
	annotate("null")
	parttest.Eventually(t, "the pod on the node that was lost is Ready", func() bool { return ready("on-lost") })
}

func TestBadTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"{{.Nope}}":                      "template",
		"metadata: {nom: x}":             "must make a Node",
		"metadata: {name: all-the-same}": "{{.Index}}",
	} {
		template, err := simulated.ParseTemplate(text)
		if err == nil {
			_, err = simulated.New(simulated.Config{Nodes: 2, Template: template}, nil, informers.NewSharedInformerFactory(nil, 0))
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("template %q: error %v, want one with %q", text, err, want)
		}
	}
}

// BenchmarkPodStarts measures pods from creation to Ready, on 5,000 nodes.
func BenchmarkPodStarts(b *testing.B) {
	env := testenv.Start(b)
	const nodes = 5000
	began := time.Now()
	run(b, env, simulated.Config{Nodes: nodes})
	for there := 0; there < nodes; time.Sleep(time.Second) {
		list, err := env.Client.CoreV1().Nodes().List(b.Context(), metav1.ListOptions{ResourceVersion: "0"})
		if err != nil || time.Since(began) > 5*time.Minute {
			b.Fatalf("%d nodes are there after %v: %v", there, time.Since(began), err)
		}
		there = len(list.Items)
	}
	b.Logf("%d nodes registered within %v", nodes, time.Since(began))
	ready := make(chan struct{}, 2*b.N)
	factory := informers.NewSharedInformerFactory(env.Client, 0)
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if isReady(obj.(*v1.Pod)) {
				ready <- struct{}{}
			}
		},
		UpdateFunc: func(old, obj any) {
			if isReady(obj.(*v1.Pod)) && !isReady(old.(*v1.Pod)) {
				ready <- struct{}{}
			}
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	factory.StartWithContext(b.Context())
	factory.WaitForCacheSync(b.Context().Done())
	b.ResetTimer()
	next := make(chan int)
	for range 8 {
		go func() {
			for i := range next {
				if _, err := env.Client.CoreV1().Pods("default").Create(b.Context(), boundPod(fmt.Sprint("p", i), fmt.Sprint("simulated-", i%nodes)), metav1.CreateOptions{}); err != nil {
					b.Error(err)
				}
			}
		}()
	}
	for i := range b.N {
		next <- i
	}
	close(next)
	for range b.N {
		<-ready
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
