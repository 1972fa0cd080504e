// SPDX-License-Identifier: Apache-2.0

package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/controllers/resourceclaim"
	"github.com/skiff-k8s/skiff/kubelet/simulated"
	"github.com/skiff-k8s/skiff/scheduler"
	"github.com/skiff-k8s/skiff/testenv"
)

// These tests run the scheduler against the real API server, on simulated nodes.

// start runs a scheduler until stop is called, or the test ends.
func start(t testing.TB, config *restclient.Config) (stop func()) {
	t.Helper()
	client := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactory(client, 0)
	s, err := scheduler.New(scheduler.Config{}, client, factory, nil)
	if err != nil {
		t.Fatal(err)
	}
	return background(t, factory, s.Run)
}

func background(t testing.TB, factory informers.SharedInformerFactory, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
		factory.Shutdown()
	}
	t.Cleanup(stop)
	return stop
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 2 min: %s", what)
		}
	}
}

func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: v1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](0), Containers: []v1.Container{{
			Name: "c", Image: "img", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}},
		}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

type api struct {
	testing.TB
	*testenv.Env
}

func (a api) create(pods ...*v1.Pod) {
	a.Helper()
	for _, pod := range pods {
		if _, err := a.Client.CoreV1().Pods(pod.Namespace).Create(a.Context(), pod, metav1.CreateOptions{}); err != nil {
			a.Fatal(err)
		}
	}
}

func (a api) pod(name string) *v1.Pod {
	a.Helper()
	pod, err := a.Client.CoreV1().Pods("default").Get(a.Context(), name, metav1.GetOptions{})
	if err != nil {
		a.Fatal(err)
	}
	return pod
}

func scheduled(pod *v1.Pod) (reason, message string) {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled {
			return c.Reason, c.Message
		}
	}
	return "", ""
}

// Pods get devices by templates of claims; who finds none waits for one that is given back.
func TestDevices(t *testing.T) {
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: 2}))}
	start(t, a.Config)
	factory := informers.NewSharedInformerFactory(a.Client, 0)
	forPods, err := resourceclaim.NewForPods(a.Client, factory, record.NewFakeRecorder(100))
	if err != nil {
		t.Fatal(err)
	}
	runner := reconcile.Runner{Controllers: []reconcile.Controller{forPods, resourceclaim.New(a.Client, factory)}}
	background(t, factory, runner.Run)

	resources, ctx := a.Client.ResourceV1(), t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(resources.DeviceClasses().Create(ctx, &resourcev1.DeviceClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu"},
		Spec: resourcev1.DeviceClassSpec{Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{
			Expression: `device.driver == "gpu.example.com" && device.attributes["gpu.example.com"].big`,
		}}}},
	}, metav1.CreateOptions{}))
	device := func(name string, big bool) resourcev1.Device {
		return resourcev1.Device{Name: name, Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"big": {BoolValue: &big}}}
	}
	must(resources.ResourceSlices().Create(ctx, &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "slice"},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "gpu.example.com", NodeName: ptr.To("simulated-1"), Pool: resourcev1.ResourcePool{Name: "simulated-1", ResourceSliceCount: 1},
			Devices: []resourcev1.Device{device("small", false), device("one", true), device("two", true)},
		},
	}, metav1.CreateOptions{}))
	must(resources.ResourceClaimTemplates("default").Create(ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu", Namespace: "default"},
		Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
			Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}},
		}}},
	}, metav1.CreateOptions{}))
	// The second of the big ones is broken.
	must(resources.DeviceTaintRules().Create(ctx, &resourcev1.DeviceTaintRule{
		ObjectMeta: metav1.ObjectMeta{Name: "broken"},
		Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Device: ptr.To("two")},
			Taint:          resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoSchedule},
		},
	}, metav1.CreateOptions{}))

	withDevice := func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("gpu")}}
		p.Spec.Containers[0].Resources.Claims = []v1.ResourceClaim{{Name: "gpu"}}
	}
	a.create(newPod("a", withDevice))
	eventually(t, "the first pod is placed", func() bool { return a.pod("a").Spec.NodeName == "simulated-1" })
	claims, err := resources.ResourceClaims("default").List(ctx, metav1.ListOptions{})
	if err != nil || len(claims.Items) != 1 {
		t.Fatalf("claims: %v, %v", claims, err)
	}
	c := claims.Items[0]
	if !strings.HasPrefix(c.Name, "a-gpu-") || c.Status.Allocation.Devices.Results[0].Device != "one" || len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].Name != "a" {
		t.Errorf("claim of the first pod is %v", c)
	}

	a.create(newPod("b", withDevice))
	eventually(t, "the second pod is told that there is none", func() bool {
		_, message := scheduled(a.pod("b"))
		return strings.HasPrefix(message, "0/2 nodes are available: 2 cannot allocate all claims.")
	})
	if err := a.Client.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second pod gets the first one's device", func() bool { return a.pod("b").Spec.NodeName == "simulated-1" })

	a.create(newPod("c", withDevice))
	eventually(t, "the third pod is told that there is none", func() bool {
		_, message := scheduled(a.pod("c"))
		return message != ""
	})
	if err := resources.DeviceTaintRules().Delete(ctx, "broken", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the third pod gets the device that is whole again", func() bool { return a.pod("c").Spec.NodeName == "simulated-1" })

	a.create(newPod("d", withDevice, func(p *v1.Pod) { p.Spec.ResourceClaims[0].ResourceClaimTemplateName = ptr.To("none") }))
	a.create(newPod("e"))
	eventually(t, "a pod without claims is placed", func() bool { return a.pod("e").Spec.NodeName != "" })
	if reason, _ := scheduled(a.pod("d")); reason != "" || a.pod("d").Spec.NodeName != "" {
		t.Errorf("a pod whose claim cannot be made is on %q, %q", a.pod("d").Spec.NodeName, reason)
	}
}

// mortal is a transport that stops in the middle of some write: before the server has heard of it, or before the scheduler has heard
// back. From then on nothing goes through.
type mortal struct {
	next  http.RoundTripper
	left  atomic.Int64 // writes
	heard bool         // the last write reaches the server
	died  chan struct{}
}

var errDead = errors.New("this scheduler is dead")

func (m *mortal) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return m.next.RoundTrip(req)
	}
	switch left := m.left.Add(-1); {
	case left > 0:
		return m.next.RoundTrip(req)
	case left < 0:
		return nil, errDead
	}
	defer close(m.died)
	if m.heard {
		if resp, err := m.next.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	return nil, errDead
}

// A scheduler that dies at any write is followed by another, until all pods are placed: each once, and never more on a node than fit.
func TestSchedulerDies(t *testing.T) {
	const pods, nodes, perNode = 1000, 100, 11
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	template, err := simulated.ParseTemplate(fmt.Sprintf(`
metadata: {name: "n{{.Index}}"}
status: {capacity: {cpu: "%d", memory: 1Gi, pods: "110"}}`, perNode))
	if err != nil {
		t.Fatal(err)
	}
	a := api{t, testenv.Start(t, testenv.SimulatedNodes(simulated.Config{Nodes: nodes, Template: template}))}
	var moved, placed atomic.Int64
	factory := informers.NewSharedInformerFactory(a.Client, 0)
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(old, now any) {
		switch was, is := old.(*v1.Pod).Spec.NodeName, now.(*v1.Pod).Spec.NodeName; {
		case was == "" && is != "":
			placed.Add(1)
		case was != is:
			moved.Add(1)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	factory.StartWithContext(t.Context())
	factory.WaitForCacheSync(t.Context().Done())
	go func() {
		for i := range pods {
			a.create(newPod(fmt.Sprint("p", i)))
		}
	}()
	deaths := 0
	for deadline := time.Now().Add(5 * time.Minute); placed.Load() < pods; deaths++ {
		m := &mortal{heard: r.IntN(2) == 0, died: make(chan struct{})}
		m.left.Store(1 + r.Int64N(120))
		config := restclient.CopyConfig(a.Config)
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { m.next = next; return m })
		stop := start(t, config)
		for waiting := true; waiting; {
			select {
			case <-m.died:
				waiting = false
			case <-time.After(50 * time.Millisecond):
				waiting = placed.Load() < pods
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d pods are placed after 5 min and %d deaths", placed.Load(), pods, deaths)
			}
		}
		stop()
	}
	t.Logf("%d pods placed by %d schedulers", placed.Load(), deaths)
	list, err := a.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	on := make(map[string]int)
	for _, pod := range list.Items {
		if on[pod.Spec.NodeName]++; on[pod.Spec.NodeName] > perNode || pod.Spec.NodeName == "" {
			t.Errorf("node %q has %d pods, has room for %d", pod.Spec.NodeName, on[pod.Spec.NodeName], perNode)
		}
	}
	if len(list.Items) != pods || moved.Load() != 0 {
		t.Errorf("%d pods, of which %d changed their node", len(list.Items), moved.Load())
	}
}

// BenchmarkThroughAPI measures pods from creation to their node, through the real API server and store.
func BenchmarkThroughAPI(b *testing.B) {
	for _, nodes := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			a := api{b, testenv.Start(b)}
			each(nodes, func(i int) {
				n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}, Status: v1.NodeStatus{Allocatable: v1.ResourceList{
					v1.ResourceCPU: resource.MustParse("10000"), v1.ResourceMemory: resource.MustParse("100Ti"), v1.ResourcePods: resource.MustParse("100000"),
				}}}
				if _, err := a.Client.CoreV1().Nodes().Create(a.Context(), n, metav1.CreateOptions{}); err != nil {
					b.Error(err)
				}
			})
			placed := make(chan struct{}, b.N)
			factory := informers.NewSharedInformerFactory(a.Client, 0)
			_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.FilteringResourceEventHandler{
				FilterFunc: func(obj any) bool { pod, ok := obj.(*v1.Pod); return ok && pod.Spec.NodeName != "" },
				Handler:    cache.ResourceEventHandlerFuncs{AddFunc: func(any) { placed <- struct{}{} }},
			})
			if err != nil {
				b.Fatal(err)
			}
			each(b.N, func(i int) { a.create(newPod(fmt.Sprint("p", i))) })
			factory.StartWithContext(b.Context())
			factory.WaitForCacheSync(b.Context().Done())
			b.ResetTimer()
			start(b, a.Config)
			for range b.N {
				<-placed
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

// each calls f for the numbers below n, eight at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
